"""Running a network: devices, processes, predictions."""
