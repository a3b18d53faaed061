"""Wrong labels.

- `opinion`: how much a network and a second opinion speak against the label of each image
- `training`: how doubtful the label of each training image is
- `marks`: what a person decided about labels on the pages, and the evaluation corrected by it
- `judgements`: estimates about all labels, from marks on images that were drawn at random
"""
