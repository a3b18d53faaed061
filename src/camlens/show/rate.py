"""The learning-rate range test as files: `camlens train --find-rate`."""

from dataclasses import replace
from pathlib import Path

from camlens.data.dataset import Dataset
from camlens.files import out_folder, write_csv
from camlens.show.figures import charts
from camlens.train.find_rate import RateTest, find_rate
from camlens.train.run_folder import RunSettings
from camlens.train.trainer import create_trainer


def write_range_test(settings: RunSettings, data: Dataset) -> tuple[RateTest, list[Path]]:
    """Do the range test for a run with these settings, and write rate.csv and rate.png to its folder, but no run.

    Args:
        settings: The settings of the run. As the test is short, the network is compiled only if they say so.
        data: The training split.

    Returns:
        The test and the files.
    """
    folder = out_folder(settings.folder.path)
    trainer = create_trainer(replace(settings, compute={"compiled": False} | settings.compute), data)
    test = find_rate(trainer)
    columns = {"learning_rate": test.rates, "loss": test.losses, "smoothed_loss": test.smoothed}
    write_csv(folder / "rate.csv", [columns, *zip(*columns.values(), strict=True)])
    title = f"Learning rates of {trainer.recipe.network} on {data.name}"
    sheet = charts.learning_rates(title, test.in_words(), test.rates, test.losses, test.smoothed, test.proposal)
    return test, [folder / "rate.csv", sheet.save(folder / "rate.png")]
