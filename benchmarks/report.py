"""Makes RESULTS.md and the tables in docs from results/*.json: python benchmarks/report.py"""

from __future__ import annotations

from typing import Any

from common import HERE, ROOT, arguments, read

from camlens.train.recipe import RECIPES

CIFAR10_RECIPES = ("quick", "cpu", "course", "long", "fast", "best")


def hardware(machine: dict[str, Any]) -> str:
    """A machine in words."""
    what = machine["gpu"] or f"{machine['cores']} cores of {machine['cpu']} ({', '.join(machine['units'][-2:])})"
    return f"{what}, {machine['threads']} threads, torch {machine['versions']['torch']}, Python {machine['python']}"


def percent(share: float) -> str:
    """A share as it is read."""
    return f"{100 * share:.2f} %"


def recipes() -> list[str]:
    """The table of the recipes."""
    found = read("recipes")
    lines = [
        "## Recipes on CIFAR-10",
        "",
        "Accuracy on all 10,000 test images without test-time augmentation; the time of all steps. The test images "
        "were looked at once for each recipe, twice for `cpu` and four times for `quick` (docs/experiments.md).",
        "",
        "| recipe | epochs | accuracy | n | training time | hardware |",
        "|---|---|---|---|---|---|",
    ]
    for name in CIFAR10_RECIPES:
        runs = found.get(name, [])
        for run in runs:
            accuracy = f"{percent(run['accuracy'])} ({percent(run['interval'][0])} to {percent(run['interval'][1])})"
            lines.append(
                f"| `{name}` | {run['epochs']} | {accuracy} | 1, seed {run['seed']} | "
                f"{run['seconds'] / 60:.0f} min{run['remark']} | {hardware(run['machine'])} |"
            )
        if not runs:
            lines.append(f"| `{name}` | {RECIPES[name].epochs} | unmeasured | 0 | unmeasured | |")
    return lines


def training_speed() -> list[str]:
    """The table of benchmarks/train.py: a column for each kind of processor."""
    found = read("train")
    if not found:
        return []
    kinds = list(found.values())
    ways = list(dict.fromkeys(way for kind in kinds for way in kind["images_per_second"]))

    def row(name: str, cells: list[str]) -> str:
        return f"| {name} | {' | '.join(cells)} |"

    def images_per_second(kind: dict[str, Any], way: str) -> str:
        speeds, times = kind["images_per_second"].get(way), kind["times_the_usual_way"].get(way)
        if not speeds:
            return "not measured"
        paired = f"; {times['median']:.2f} times" if times else ""
        return f"{speeds['median']:.0f} ({speeds['min']:.0f} to {speeds['max']:.0f}){paired}"

    def gain(kind: dict[str, Any], how: str) -> str:
        fast, slow = (kind["images_per_second"][f"camlens, {dtype}, {how}"] for dtype in ("bfloat16", "float32"))
        return f"{fast['median'] / slow['median']:.2f} times"

    def chosen(kind: dict[str, Any]) -> str:
        if "ONEDNN" in kind["kind"]:  # what the processor has is asked of it, not of this variable
            return "float32, where the processor has neither"
        return "bfloat16" if kind["chosen"]["pace"]["bf16"] else "float32"

    repeats = [f"{kind['images_per_second'][ways[0]]['n']}, {kind['what'].split(', ')[3]}" for kind in kinds]
    return [
        "ResNet-18, 32x32, batches of 128, all ways in turn. Images a second: median (smallest to largest), and how "
        "many times the usual way, paired.",
        "",
        row("the processor has", [kind["kind"] for kind in kinds]),
        row("---", ["---"] * len(kinds)),
        *(row(way, [images_per_second(kind, way) for kind in kinds]) for way in ways),
        *(row(f"bfloat16 to float32, {how}", [gain(kind, how) for kind in kinds]) for how in ("eager", "compiled")),
        row("`camlens train` chooses", [chosen(kind) for kind in kinds]),
        row("repeats", repeats),
        row("measured on", [hardware(kind["machine"]) for kind in kinds]),
    ]


def pace() -> list[str]:
    """The table of benchmarks/train.py under its heading."""
    return ["## Training speed", "", *training_speed()]


def kills() -> list[str]:
    """The lines of benchmarks/kill.py."""
    found = read("kill")
    if not found:
        return []
    return [
        "## Runs that are killed",
        "",
        f"{found['kills']} times SIGKILL into one real run ({found['after_the_first_checkpoint']} after its first "
        f"checkpoint, {found['during_a_save']} during a save), resumed each time: the weights at its end "
        f"{'are those' if found['same_weights'] else 'ARE NOT THOSE'} of an undisturbed run (sha256 of all of them). "
        f"A save onto a full disk ({found['full_disk']['megabytes']} MB of memory file system): "
        f"{'the old checkpoint was kept' if found['full_disk']['kept'] else 'THE OLD CHECKPOINT WAS LOST'}, and the "
        f"message was “{found['full_disk']['message']}”.",
    ]


def exits() -> list[str]:
    """The lines of benchmarks/exits.py."""
    found = read("exits")
    if not found:
        return []
    return [
        "## Runs on several processes",
        "",
        f"{found['runs']} runs of {found['processes']} processes, started by torchrun and trained to their end beside "
        f"{found['other work']}: {found['good exits']} exits with 0. {hardware(found['machine'])}.",
    ]


def finetune() -> list[str]:
    """The table of benchmarks/finetune.py."""
    found = read("finetune")
    if not found:
        return []
    folders = found["folders"]
    ways = list(next(iter(folders.values()))["accuracy"])

    def accuracy(values: list[float]) -> str:
        return f"{100 * sum(values) / len(values):.1f} % ({', '.join(f'{100 * value:.1f}' for value in values)})"

    def gain(of: dict[str, float]) -> str:
        return f"{100 * of['mean']:+.1f} ± {100 * of['standard error']:.1f}"

    lines = [
        "## Small folders",
        "",
        "The recipe `finetune` on folders cut out of CIFAR-10, by default and as it was before its moving average "
        "forgot its start. Accuracy on 60 test pictures a class: mean, and each seed; gains paired by seed, in points, "
        "with their standard error. Nothing was chosen on these pictures.",
        "",
        f"| folder | {' | '.join(ways)} | gain over before; without average | seconds now: median (range) |",
        f"|{'---|' * (len(ways) + 3)}",
    ]
    for name, row in folders.items():
        cells = [accuracy(row["accuracy"][way]) for way in ways]
        gains, taken = "; ".join(gain(of) for of in row["gain"].values()), row["seconds"][ways[0]]
        seconds = f"{taken['median']:.0f} ({taken['min']:.0f} to {taken['max']:.0f})"
        lines.append(f"| {name} | {' | '.join(cells)} | {gains} | {seconds} |")
    return [*lines, "", f"{hardware(found['machine'])}."]


def page() -> list[str]:
    """The lines of benchmarks/page.py."""
    found = read("page")
    if not found:
        return []
    opening, images = found["opening_seconds"], found["images"]

    def cost(report: str) -> str:
        times, taken = found["times_an_evaluation"][report], found["seconds"][report]["median"]
        return f"{taken:.0f} s, {times['median']:.2f} times ({times['min']:.2f} to {times['max']:.2f})"

    return [
        "## The error report",
        "",
        f"The shipped network on CIFAR-10's {images['test']:,} test images, {found['errors']} errors. A plain "
        f"evaluation takes {found['seconds']['evaluation']['median']:.0f} s. The first report reads the features of "
        f"the {images['train']:,} training images too and takes {cost('first report')} an evaluation; a later one "
        f"takes {cost('later report')} (n = {found['seconds']['evaluation']['n']}, paired). "
        f"The page has {found['megabytes']:.1f} MB and is drawn {opening['median']:.2f} s after it is opened "
        f"({opening['min']:.2f} to {opening['max']:.2f}, n = {opening['n']}). {hardware(found['machine'])}.",
    ]


def explorer() -> list[str]:
    """The lines of benchmarks/explorer.py."""
    found = read("explorer")
    if not found:
        return []
    crowd = found["crowd"]
    used = crowd["megabytes_after_each_tenth"]
    lines = [
        "## The explorer",
        "",
        "Seconds from the question to the whole answer, one client alone, the shipped network:",
        "",
        "| picture | median (range), n |",
        "|---|---|",
    ]
    for name, row in found["alone_seconds"].items():
        lines.append(f"| {name} | {row['median']:.3f} ({row['min']:.3f} to {row['max']:.3f}), {row['n']} |")
    waits = crowd["answer_seconds"]
    return [
        *lines,
        "",
        f"{crowd['clients']} clients at once, {crowd['answers']['200']:,} uploads of these files in "
        f"{crowd['seconds']:.0f} s: {crowd['failures']} failures, {crowd['answers'].get('503', 0):,} times 503 "
        f"(try again in a second); an answer took {waits['median']:.2f} s ({waits['min']:.2f} to {waits['max']:.2f}). "
        f"Memory before {crowd['megabytes_before']:,} MB; after each tenth of the uploads "
        f"{', '.join(f'{megabytes:,}' for megabytes in used)} MB. {hardware(found['machine'])}.",
    ]


def why() -> list[str]:
    """The tables of benchmarks/why.py."""
    found = read("why")
    if not found:
        return []
    trials, places, averaged = found["trials"], found["places"], found["averaging"]

    def points(share: float) -> str:
        return f"{100 * share:+.0f}"

    def row(name: str, rate: dict[str, Any]) -> str:
        low, high = rate["interval"]
        cells = f"{100 * rate['errors']:.0f} %", f"{100 * rate['matched']:.0f} %", points(rate["difference"])
        reason = "yes" if rate.get("reason") else ""
        return f"| {name} | {' | '.join(cells)} ({points(low)} to {points(high)}) | {reason} |"

    random, central = (f"{100 * places[name]:.0f} %" for name in ("a place at random", "a central place"))
    gains = [
        f"{points(places[name])} points ({points(low)} to {points(high)})"
        for name, (low, high) in (
            ("difference", places["interval"]),
            ("difference from central", places["interval from central"]),
        )
    ]
    return [
        "## What changes its mind",
        "",
        f"{found['errors']} errors of the shipped network on CIFAR-10's {found['images']:,} test images "
        f"({percent(found['accuracy'])} right), {trials['pairs']} of them beside a right image of its own whose two "
        f"largest probabilities differ as much (to {trials['mean distance of the margins']:.3f} on average). How many "
        "errors become their label, how many right images their runner-up; the difference in points with its 95 % "
        "interval, each by itself; a reason where it is above 0 after Holm's correction over all edits.",
        "",
        "| edit | errors | matched right | difference | a reason |",
        "|---|---|---|---|---|",
        *(row(rate["name"], rate) for rate in trials["edits"] if not rate["name"].startswith("covered")),
        "",
        "Of several edits, any of them (corrected for these rows alone):",
        "",
        "| edits | errors | matched right | difference | beyond chance |",
        "|---|---|---|---|---|",
        *(row(rate["name"], rate) for rate in trials["kinds"] if "any of" in rate["name"] or " or " in rate["name"]),
        "",
        f"Covering the place that the contrast map names first corrects {100 * places['first']:.0f} % of the errors, a "
        f"place at random {random}: {gains[0]}; one of the four central ones {central}: {gains[1]}. With each of three "
        f"fills it does so in {100 * places['all fills agree']:.0f} %.",
        "",
        f"Averaged with {averaged['way']} where the two largest probabilities differ by less than "
        f"{averaged['averaged below']}: of {averaged['averaged']:,} such images on which this was not chosen, "
        f"{averaged['corrected']} are corrected and {averaged['broken']} broken, net {averaged['net']:+d} (McNemar's "
        f"p-value {averaged['p_value']:.2g}).",
        "",
        "All of it, with the evaluation and the maps of the errors, takes as many images through the network as "
        f"{found['evaluations']:.2f} evaluations. {hardware(found['machine'])}.",
    ]


def duplicates() -> list[str]:
    """The lines of benchmarks/duplicates.py."""
    found = read("duplicates")
    if not found:
        return []
    return [
        "## Near-duplicates",
        "",
        f"Of {found['judged']} test images of CIFAR-10, {found['near-duplicates']} have a near-duplicate among the "
        f"training images as people judged them (ciFAIR). Recall {found['recall']:.2f} at precision "
        f"{found['precision']:.2f} where the report draws the line, {found['recall at precision 0.9']:.2f} at 0.9 "
        f"along the ranking. {hardware(found['machine'])}.",
    ]


def labels() -> list[str]:
    """The tables of benchmarks/labels.py."""
    found = read("labels")
    if not found:
        return []

    def with_ends(row: dict[str, Any], key: str) -> str:
        return f"{row[key]:.3f} ({row['interval'][0]:.3f} to {row['interval'][1]:.3f})"

    def ranked(name: str, among_errors: dict[str, Any] | None, of_all: dict[str, Any]) -> str:
        last = list(of_all["at the top"].values())[-1]
        cells = ["" if among_errors is None else with_ends(among_errors, "auroc"), with_ends(of_all, "auroc")]
        cells += [with_ends(last, "precision"), with_ends(of_all["suggested class right at the top"], "precision")]
        return f"| {name} | {' | '.join(cells)} |"

    judged, run, tool = found["opinions"], found.get("dynamics"), found.get("beside aum")
    names = {"own": "ResNet-18's own margin", "second": "ResNet-50d's margin", "both": "both (`--opinion`)"}
    lines = [
        "## Doubt in labels",
        "",
        "CIFAR-10's 50,000 training images with the labels of CIFAR-10N (aggregate), of which 4,505 differ from the "
        "official ones, which are taken as the truth. Both networks' probabilities are published and out of sample: "
        f"neither has seen the labels that it judges. The ResNet-18 has {judged['errors']:,} errors, in "
        f"{percent(judged['wrong labels among the errors'])} of which the label is wrong. With 95 % intervals; "
        "precision at the top is of as many images as there are wrong labels.",
        "",
        "| doubt by | AUROC among the errors | AUROC over all | precision at the top | suggested class right there |",
        "|---|---|---|---|---|",
        *(ranked(told, judged["among the errors"][k], judged["over all images"][k]) for k, told in names.items()),
    ]
    if run:
        told = f"margins of training, {run['epochs']} epochs"
        how = f"{run['minutes']:.0f} min{run['remark']}; {hardware(run['machine'])}"
        lines += [
            ranked(told, None, run),
            "",
            f"The margins are those of a run of {run['epochs']} epochs with {run['recipe']} ({how}), labels and images "
            "as above; of its last epoch alone the AUROC is "
            f"{run['auroc of the last epoch alone']:.3f}. Asked for were 0.977 and 0.79, at least 0.96 and 0.72.",
        ]
    lines += [
        "",
        "Where fewer labels are wrong, as in a test set, with both opinions (as many wrong labels drawn as that makes, "
        "200 times; the networks stay those that learned from 9 % wrong labels):",
        "",
        "| wrong labels | number | precision of as many at the top | precision where doubt is above 0 | recall there |",
        "|---|---|---|---|---|",
    ]
    for share, row in judged["both, by prevalence"].items():
        keys = "precision at the top", "precision of doubt above 0", "recall of doubt above 0"
        lines.append(
            f"| {share} | {row['wrong labels']:,} | {' | '.join(with_ends(row[key], 'mean') for key in keys)} |"
        )
    if not tool:
        return lines
    key = "largest difference of the mean margins, in logits"
    beside = (
        f" The tool `aum`, fed the same logits, gives the same means (largest difference {tool[key]:g} logits)"
        if key in tool
        else ""
    )
    took = f" and takes {percent(tool['aum, share of the time'])} beside it" if beside else ""
    return [
        *lines,
        "",
        f"Keeping margins takes {percent(tool['margins, share of the time'])} of the processor time of a training of "
        f"{tool['steps']} small steps (recipe `shapes`).{beside}{took}{'.' if beside else ''} "
        f"{hardware(tool['machine'])}.",
    ]


def maps() -> list[str]:
    """The lines of benchmarks/maps.py, on the CPU and on a GPU."""
    return [line for name in ("maps", "maps-gpu") for line in maps_on(read(name))]


def maps_on(found: dict[str, Any]) -> list[str]:
    """The lines of one machine."""
    if not found:
        return []

    def shown(row: dict[str, Any]) -> str:
        low, high = row["interval"]
        return f"{row['median']:.2f} ({low:.2f} to {high:.2f})"

    lines = [
        "## Maps",
        "",
        "Each in three processes of its own, one at a time in turn; ratios are those of one round. Medians with 95 % "
        "intervals, and the number of rounds. Peak memory is that of the process, in MB, and how much of it came after "
        "network and images were there. "
        + ", ".join(f"{name} {version}" for name, version in found["peers"].items())
        + ".",
    ]
    for title, part in found.items():
        if " at " not in title:
            continue
        first, second = list(part)[:2]
        heading = f"| {title} | seconds, n | times {first} | times {second} | peak memory |"
        lines += ["", heading, "|---|---|---|---|---|"]
        for name, row in part.items():
            ratios = " | ".join(shown(ratio) for ratio in row["ratios"].values())
            memory = f"{row['peak MB']:,}, {row['MB beyond the start']:,}"
            lines.append(f"| {name} | {row['seconds']['median']:.3f}, {row['seconds']['n']} | {ratios} | {memory} |")
    return [*lines, "", f"{hardware(found['machine'])}."]


def preprocessing() -> list[str]:
    """How many of the libraries' settings are read off."""
    found = read("preprocessing")
    if not found:
        return []
    lines = [
        "## Pictures prepared as other libraries do",
        "",
        "`python benchmarks/preprocessing.py`: what `camlens.Preprocess` reads off a library, against what the library",
        "itself does with photos of five sizes, in levels of 255. What it cannot read off it refuses in words.",
        "",
        "| library | settings | within one level | largest difference | refused |",
        "|---|---:|---:|---:|---|",
    ]
    for name, one in found["libraries"].items():
        most, refused = max(one["largest difference"].values()), ", ".join(one["refused"]) or "none"
        lines.append(f"| {name} {one['version']} | {one['cases']} | {one['within one level']} | {most:g} | {refused} |")
    return [*lines, "", f"{hardware(found['machine'])}."]


def strangers() -> list[str]:
    """How camlens does with networks of other libraries."""
    found = read("strangers")
    if not found:
        return []
    lines = [
        "## Networks of other libraries by name",
        "",
        "`python benchmarks/strangers.py`: a small network of each family with random weights, by `camlens.load`,",
        "against the library alone: pictures to one grey level, class names; in float64 and to 1e-6 the logits,",
        "HiResCAM of each listed layer and Grad-CAM of the default one, by a hook and autograd; each layer depends on",
        "the image, its cells on the same quarter of it. Networks of more than 100 million parameters are left out.",
        f"{found['minutes']:.0f} minutes beside other work.",
        "",
        "| library | tried | right | refused in words | failed |",
        "|---|---:|---:|---:|---:|",
    ]
    rows = found["networks"]
    for name, version in found["versions"].items():
        outcomes = [row["outcome"] for row in rows if row["library"] == name]
        tried = [outcome for outcome in outcomes if outcome != "not built"]
        counts = " | ".join(str(tried.count(outcome)) for outcome in ("right", "refused", "failed"))
        lines.append(f"| {name} {version} | {len(tried)} | {counts} |")
    for outcome in ("failed", "refused", "not built"):
        named = [f"{row['library']} {row['name']} ({row['why']})" for row in rows if row["outcome"] == outcome]
        lines += ["", f"{outcome.capitalize()}: {'; '.join(named) or 'none'}."]
    return [*lines, "", f"{hardware(found['machine'])}."]


def experiments() -> list[str]:
    """What ideas for the training gain."""
    found = read("experiments")
    if not found:
        return []
    ideas = list(dict.fromkeys(idea for budget in found.values() for idea in budget["accuracy"]))

    def cell(accuracy: dict[str, Any] | None) -> str:
        if accuracy is None:
            return ""
        low, high = percent(accuracy["min"]), percent(accuracy["max"])
        return f"{percent(accuracy['median'])}, n = {accuracy['n']}" + (f" ({low} to {high})" if low != high else "")

    lines = [
        "## Ideas for the training",
        "",
        "`python benchmarks/experiments.py`: ResNet-18, recipe `long` at 32x32 on 10,000 training images of CIFAR-10, "
        "each idea",
        "by itself; accuracy on 5,000 other training images.",
        "",
        f"| idea | {' | '.join(found)} |",
        f"|---|{'---|' * len(found)}",
    ]
    lines += [f"| {i} | {' | '.join(cell(budget['accuracy'].get(i)) for budget in found.values())} |" for i in ideas]
    return [*lines, "", *(f"{name}: {hardware(budget['machine'])}." for name, budget in found.items())]


def scale() -> list[str]:
    """Time and memory of an evaluation by the number of images."""
    found = read("scale")
    if not found:
        return []
    lines = [
        "## Any number of images",
        "",
        f"`python benchmarks/scale.py`: {found['what']}. Decoded as they are needed, if not said otherwise. Median "
        "(smallest to largest).",
        "",
        "| images | images/s | listing | peak memory | wall time over CPU time by cores |",
        "|---|---:|---:|---:|---:|",
    ]

    def cell(one: dict[str, Any], digits: int) -> str:
        return f"{one['median']:,.{digits}f} ({one['min']:,.{digits}f} to {one['max']:,.{digits}f})"

    for name, run in found["runs"].items():
        speed, listing = cell(run["images_per_second"], 0), f"{cell(run['listing_s'], 1)} s"
        peak, overlap = f"{cell(run['peak_mb'], 0)} MB", cell(run["wall_over_cpu_by_cores"], 2)
        lines.append(f"| {name} | {speed} | {listing} | {peak} | {overlap} |")
    return [*lines, "", f"{hardware(found['machine'])}."]


def groups() -> list[str]:
    """The table of benchmarks/groups.py."""
    found = read("groups")
    if not found:
        return []

    def shown(value: dict[str, Any]) -> str:
        if not value["n"]:
            return "–"
        low, high = value["interval"]
        return f"{value['mean']:.2f} ({low:.2f} to {high:.2f})"

    keys = list(next(iter(found["planted"].values())))[1:]
    chance, real = found["by chance"], found["CIFAR-10"]
    lines = [
        "## Groups of errors",
        "",
        "10,000 drawings of `shapes` with errors drawn at random, class by class, and a planted group of 60 to 200 "
        "images, wrong 30 points more often. Means with 95 % bootstrap intervals; the rates are of the group found "
        "first.",
        "",
        f"| planted | n | {' | '.join(keys)} |",
        f"|---|---|{'---|' * len(keys)}",
        *(
            f"| {kind} | {row['repeats']} | {' | '.join(shown(row[key]) for key in keys)} |"
            for kind, row in found["planted"].items()
        ),
        "",
        f"The errors dealt out at random within their classes, {chance['permutations']} times: "
        f"{chance['false groups']} false groups, in {chance['with some']} of them "
        f"({percent(chance['interval'][0])} to {percent(chance['interval'][1])}; 1 % is aimed at).",
    ]
    if real:
        lines += [
            "",
            f"Of the {real['errors']} errors of {real['model']} on CIFAR-10's test images ({real['seconds']:.0f} s): "
            f"{real['note']}",
            *(f"- {group['sentence']}" for group in real["groups"]),
        ]
    return [*lines, "", f"Measured on {hardware(found['machine'])}."]


def shortcuts() -> list[str]:
    """The lines of benchmarks/shortcut.py."""
    found = read("shortcut")
    if not found:
        return []
    row, real = found["shapes"], found["CIFAR-10"]
    area = (
        row["auroc"]
        and f"{row['auroc']['value']:.2f} ({' to '.join(f'{end:.2f}' for end in row['auroc']['interval'])})"
    )
    lines = [
        "## Shortcuts",
        "",
        "Small networks that learned drawings of `shapes` with a mark of random class, place, size, colour and opacity "
        "on 25, 50 or 100 % of the class's training images and on no test image, and as many without a mark: "
        f"{row['seeds']} of each. A mark counts where pasting it shows that the network uses it: {row['used']} do. The "
        "score is how far the weakest of the three differences is above what it must exceed.",
        "",
        "| | |",
        "|---|---|",
        f"| AUROC of the score, marks that are used against clean networks | {area} |",
        f"| alarms where the mark is used | {row['alarms on used']} of {row['used']}, "
        f"{row['of these, of the right class']} of the right class |",
        f"| at least a strong cue there | {row['at least a strong cue on used']} of {row['used']} |",
        f"| alarms in clean networks | {row['alarms on clean']} of {row['seeds']} |",
        f"| strong cues in clean networks | {row['strong cues on clean']} of {row['seeds']} |",
        f"| images that the network runs on, at most | {row['passes']:,} |",
    ]
    if real:
        lines += [
            "",
            f"{real['model']} on CIFAR-10's first {real['test images']:,} test images, marks looked for in the first "
            f"{real['training images']:,} training images: {real['note']}",
            *(f"- {sentence}" for sentence in real["found"]),
        ]
    return [*lines, "", f"Measured on {hardware(found['machine'])}."]


def results() -> str:
    """RESULTS.md."""
    parts = [["# Results", "", "Made by `python benchmarks/report.py` from `benchmarks/results/*.json`."]]
    training = (recipes, experiments, pace, kills, exits, finetune)
    tables = (
        *training,
        page,
        explorer,
        why,
        groups,
        shortcuts,
        duplicates,
        labels,
        maps,
        preprocessing,
        strangers,
        scale,
    )
    parts += [part for part in (table() for table in tables) if part]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def with_tables(text: str) -> str:
    """A page of the docs, with each table between its two comments made anew."""
    for name, table in TABLES.items():
        before, begins, rest = text.partition(f"<!-- {name}, made by benchmarks/report.py -->\n")
        if begins:
            _, ends, after = rest.partition("<!-- end -->\n")
            text = before + begins + "\n".join(table()) + "\n" + ends + after
    return text


TABLES = {"training speed": training_speed}
DOCS = [ROOT / "docs" / "train.md"]


def make() -> None:
    """Write RESULTS.md, and the tables in docs."""
    (HERE / "RESULTS.md").write_text(results(), encoding="utf-8")
    for document in DOCS:
        document.write_text(with_tables(document.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    if arguments(__doc__).parse_args().smoke:
        print(results())
    else:
        make()
