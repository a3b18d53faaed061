"""`camlens data`: what is in a data set."""

from rich.table import Column, Table

from camlens.commands import options as opt
from camlens.commands.console import console, print_json, print_paths
from camlens.files import out_folder


def data(
    data: opt.Data = "cifar10",
    data_dir: opt.DataDir = None,
    skip_unreadable: opt.SkipUnreadable = False,
    max_megapixels: opt.MaxMegapixels = None,
    seed: opt.Seed = 0,
    out: opt.Out = opt.OUT / "data",
    as_json: opt.AsJson = False,
) -> None:
    """Count the images of each class and draw ten of each: overview.png."""
    from camlens.data.sources import load_split, splits_of
    from camlens.show import draw

    sets = [load_split(data, split, data_dir=data_dir, skip_unreadable=skip_unreadable) for split in splits_of(data)]
    path = draw.overview(sets, seed, out_folder(out))
    facts = [images.facts() for images in sets]
    if as_json:
        print_json({"data": data, "splits": facts, "overview": str(path)})
        return
    splits = [Column(fact["split"], justify="right") for fact in facts]
    table = Table("class", *splits, title=f"{data}: {sum(map(len, sets)):,} images", title_justify="left")
    for name in sets[0].class_names:
        table.add_row(name, *(f"{fact['counts'][name]:,}" for fact in facts))
    table.add_section()
    table.add_row("all", *(f"{len(images):,}" for images in sets))
    console.print(table)
    for fact in facts:
        mean, std = (" ".join(f"{x:.4f}" for x in fact[key]) for key in ("mean", "std"))
        console.print(f"{fact['split']}: {fact['size']}, channel mean {mean}, standard deviation {std}")
        if "planted" in fact:
            console.print("  planted: " + ", ".join(f"{n} {cause}" for cause, n in fact["planted"].items()))
    print_paths(path)
