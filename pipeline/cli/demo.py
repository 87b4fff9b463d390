"""Runs the demo."""

from pathlib import Path

from pipeline.cli.settings import DemoSettings
from pipeline.demo.demo import run_demo
from pipeline.runtime.settings import Settings, as_wrong_usage


def demo(settings: Settings) -> int:
    """Writes the demo; gives the exit code of the commands that it runs."""
    with as_wrong_usage():
        return run_demo(Path(settings.of(DemoSettings).output))
