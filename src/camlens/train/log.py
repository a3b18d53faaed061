"""The metrics of a run in TensorBoard or Weights & Biases, written by these libraries."""

import math
import os
from typing import Any

from camlens.errors import CamlensError, UsageError, unknown
from camlens.files import out_folder, write_text
from camlens.train.run_folder import Row, RunConfig, RunFolder


class TensorBoard:
    """Writes the scalars of each epoch into the folder `tensorboard` of a run.

    Args:
        folder: The run folder.
        config: What is trained and how.
        rows: Metrics of the finished epochs. They are written again: this hides what a stopped run wrote after its last
            checkpoint, and adds what is missing if it was not logged from the start.
    """

    def __init__(self, folder: RunFolder, config: RunConfig, rows: list[Row]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer: Any = SummaryWriter(str(out_folder(folder.path / "tensorboard")), purge_step=0)
        for row in rows:
            self.write(row)

    def write(self, row: Row) -> None:
        """Write the metrics of an epoch."""
        for name, value in scalars(row).items():
            self.writer.add_scalar(name, value, row["epoch"])
        self.writer.flush()

    def close(self) -> None:
        """End the file."""
        self.writer.close()


class WeightsAndBiases:
    """Logs the scalars of each epoch to a run of Weights & Biases, in the project "camlens" or $WANDB_PROJECT.

    Args:
        folder: The run folder. Its wandb-id.txt holds the id of the run that a resumed one continues.
        config: What is trained and how.
        rows: Metrics of the finished epochs; those that the run does not have are written.

    Raises:
        CamlensError: Weights & Biases does not start a run.
    """

    def __init__(self, folder: RunFolder, config: RunConfig, rows: list[Row]) -> None:
        import wandb

        id_file = out_folder(folder.path) / "wandb-id.txt"
        run_id = id_file.read_text(encoding="utf-8").strip() if rows and id_file.exists() else None
        project, settings = os.environ.get("WANDB_PROJECT", "camlens"), config.to_json()
        try:
            self.run: Any = wandb.init(project=project, dir=folder.path, config=settings, id=run_id, resume="allow")
        except wandb.Error as error:
            raise CamlensError(f"--log wandb: {error}; WANDB_MODE=offline logs only to the run folder") from error
        write_text(id_file, f"{self.run.id}\n")
        for row in rows:
            self.write(row)

    def write(self, row: Row) -> None:
        """Write the metrics of an epoch, unless the run has them already."""
        if row["epoch"] >= self.run.step:
            self.run.log(scalars(row), step=row["epoch"])

    def close(self) -> None:
        """End the run."""
        self.run.finish()


LOGS: dict[str, type[TensorBoard] | type[WeightsAndBiases]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}


def open_log(name: str, folder: RunFolder, config: RunConfig, rows: list[Row]) -> TensorBoard | WeightsAndBiases:
    """Open the log of a run.

    Args:
        name: A row of `LOGS`.
        folder: The run folder.
        config: What is trained and how.
        rows: Metrics of the finished epochs.

    Raises:
        UsageError: There is no such log, or its library is not installed.
        CamlensError: It cannot be written.
    """
    if name not in LOGS:
        raise unknown("log", name, LOGS, "camlens")
    try:
        return LOGS[name](folder, config, rows)
    except ImportError as error:
        raise UsageError(f"--log {name} needs {name}; install it with: pip install 'camlens[{name}]'") from error


def scalars(row: Row) -> dict[str, float]:
    """The metrics of an epoch that have a value, by the names of their columns in metrics.csv."""
    return {name: value for name, value in row.items() if name != "epoch" and math.isfinite(value)}
