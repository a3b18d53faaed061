"""The JSON between Python and the page's script.

`Facts` is the JSON in a report's page, `Answer` that of the explorer's server for one image. E errors are listed in the
order of `ErrorAnalysis.indices`; n classes of each are explained. Binary data are base64, little-endian.
"""

from typing import Literal, TypedDict


class Sheets(TypedDict):
    """Places on sheets, side by side."""

    count: int  # pictures on all sheets
    columns: int  # pictures in a row of a sheet
    per: int  # pictures on a full sheet
    size: list[int]  # height and width of a place on the sheet, in pixels
    sheets: list[str]  # data URIs


class Pictures(Sheets, total=False):
    """Pictures that fill these places; or original pictures, if a network crops or squeezes them."""

    frames: list[list[int]]  # height and width of each in its place, from its top left corner
    windows: list[list[list[float]]]  # for each and each model, the part it takes: top, left, bottom, right in 0 to 1


class Layer(TypedDict):
    """Maps at one layer: value = integer * scale of its image."""

    name: str
    grid: list[int]  # height and width in cells
    bytes: Literal[1, 2]  # of an integer
    scale: list[float]  # of each image
    data: str  # int8 or int16, (E, n, h, w)


class ChosenLayer(Layer):
    """Maps by a method that was asked for."""

    method: str


class PredictionFacts(TypedDict):
    """A model's predictions for the images."""

    prediction: list[int]  # (E,) classes
    classes: list[list[int]]  # (E, n) explained classes, the most probable first
    probability: list[list[float]]  # (E, n)
    logit: list[list[float]]  # (E, n)
    rest: list[list[float]]  # (E, n) logit minus the sum of the last layer's map
    exact: bool  # whether the rest of a class is the same for all images: the bias
    loss: list[float]  # (E,) cross-entropy
    layers: list[Layer]  # from the input to the output; the cells of the last add up to the logit less the rest


# Images whose confidence is above `from` and at most `to`: their number, mean confidence and accuracy.
ReliabilityBin = TypedDict(
    "ReliabilityBin", {"from": float, "to": float, "n": int, "confidence": float, "accuracy": float}
)


class ModelFacts(PredictionFacts):
    """A model's metrics, in addition to its predictions."""

    name: str
    weights: str  # fingerprint of them
    parameters: int
    input: str  # "224×224"
    accuracy: float
    interval: list[float]  # 95 %
    calibration: str  # temperature, calibration error and log-likelihood in words
    errors: int
    reliability: list[ReliabilityBin]
    right: list[int]  # correctly predicted images of each class
    wrong: list[list[int]]  # label, prediction and number of the errors of each pair of classes that has some
    perClass: list[list[float | None]]  # class, number of images, accuracy, precision


class DataFacts(TypedDict):
    """The evaluated data set."""

    name: str
    split: str
    n: int
    size: str  # of the original images, "32x32"


class ImageFacts(TypedDict):
    """The E listed images that a model gets wrong."""

    index: list[int]  # in the data set
    file: list[str]
    label: list[int]


class SampleFacts(TypedDict):
    """Errors and correct images of the first model, drawn at random, whose labels the user may judge."""

    drawn: list[int]  # indices in the data set, in the order in which they are judged
    doubted: list[bool] | None  # for each, whether two opinions are against its label; None without a second one
    index: list[int]  # those of them that are not among the listed errors
    file: list[str]
    label: list[int]
    prediction: list[int]  # of the first model
    pictures: Pictures


class TrainingImages(TypedDict):
    """Training images behind the errors, each once, and lists of them for each error."""

    index: list[int]  # in the training set
    file: list[str]
    label: list[int]
    doubt: list[float] | None  # in its label, 0 to 1: the fraction of the labels that are doubted less
    pictures: Pictures
    lists: dict[str, list[list[int]]]  # by kind: for each error, positions in `index`; -1 for none
    scores: dict[str, list[list[float]]]  # by kind: cosines, like the lists


class RateFacts(TypedDict):
    """How often an edit corrects errors, and changes correct images with the same margin."""

    name: str  # of the edit, or of a kind of edits
    errors: float  # fraction of the errors that it corrects
    matched: float  # fraction of the matched correct images that it changes
    difference: float
    interval: list[float]  # 95 %
    reason: bool  # whether the difference is above 0, significantly over all edits


class PlaceFacts(TypedDict):
    """The effect of covering the cell with the most evidence of an error."""

    cell: list[int]  # row and column on a grid of 4x4, from 0
    picture: int  # in `ExperimentFacts.pictures`: filled with the mean
    fall: float  # of the margin over the label, in logits
    rank: int  # of this fall among the 16 cells, 1 for the deepest
    fills: list[str]  # those that correct it


class ExperimentFacts(TypedDict):
    """The experiments on the errors of the first model; the lists are empty for errors without experiments."""

    note: str  # on how many errors, and how correct images were matched
    rates: list[RateFacts]  # of each edit, the mildest first
    kinds: list[RateFacts]  # of each kind of edits: the effect of any of them; `reason` if one of them is a reason
    edits: list[list[int]]  # for each error, the edits that correct it
    probability: list[list[float]]  # of the label then
    shown: list[list[list[int]]]  # for each, the mildest of these edits: positions in `edits`, and in `pictures`
    places: list[PlaceFacts | None]
    pictures: Pictures  # the edited network inputs


class GroupFacts(TypedDict):
    """Images with more errors than others."""

    sentence: str
    meaning: str  # of its words, in numbers
    errors: list[int]  # its errors, as positions in the list of errors


class ShortcutFacts(TypedDict):
    """A patch by which the network recognises a class; numbers of pictures in `CommonFacts.pictures`."""

    sentence: str
    label: int  # the class
    own: list[int]  # images of the class that have it
    covered: list[int]  # the same, with it covered
    turned: list[int]  # pictures of other classes with it pasted in, which then become the class


class CommonFacts(TypedDict):
    """What the errors have in common, and patches that give a class away."""

    groups: list[GroupFacts]
    tried: str  # how many rules, or why none
    shortcuts: list[ShortcutFacts]
    marks: str  # how many patches were tried
    pictures: Pictures


class Plane(TypedDict):
    """All images of the data set in a plane."""

    points: str  # uint16, (N, 2): across and upwards
    label: str  # uint16, (N,)
    share: float  # fraction of the variance in the plane


class Live(TypedDict):
    """The choices of a page that is served."""

    methods: list[str]
    method: str  # by default
    layers: list[str]


class IdentityFacts(TypedDict):
    """The network and the images of a page, so that an outdated page is recognised."""

    id: str  # fingerprint of the network and the test images
    learned: str | None  # fingerprint of the network and the training images
    camlens: str  # version


class ReportFacts(IdentityFacts):
    """The JSON in a report's page."""

    data: DataFacts
    names: list[str]  # of the classes
    images: ImageFacts
    models: list[ModelFacts]  # one or two
    pictures: Pictures
    side: list[int]  # height and width of the images as evaluated
    evidence: TrainingImages | None  # kinds: nearest, towards, away; duplicate: almost the same picture
    words: list[list[str]]  # for each error of the first model
    sentences: list[str]  # for each, what to read first
    doubt: list[float] | None  # (E,) what two opinions say against each label, -1 to 1; None without a second one
    sample: SampleFacts
    experiments: ExperimentFacts | None
    common: CommonFacts | None
    plane: Plane | None
    findings: list[str]


class Facts(ReportFacts, total=False):
    """The JSON in a page that is served."""

    live: Live


class Answer(TypedDict):
    """The explorer's response for one image: lists have one entry. An error response has only the key `error`."""

    index: int | None  # in the data set; None for an uploaded picture
    file: str
    label: int | None
    size: list[int]  # height and width of the picture
    frames: int  # more than 1 for an animation
    model: PredictionFacts
    chosen: ChosenLayer | None
    pictures: Pictures
    evidence: TrainingImages | None  # kind: nearest
