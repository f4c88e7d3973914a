"""Commands of the fleet."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console

from lwd.cli.options import RunOptions, experiment, folder


@dataclass(frozen=True, kw_only=True)
class FleetUp(RunOptions):
    """Online RL: coordinator, learner and robots run at the same time until the experience is collected."""

    def run(self) -> None:
        """Run it."""
        from lwd.fleet.online import online

        snapshot = online(experiment(self), folder(self.out), Console())
        print(f"newest snapshot {snapshot.number} at learner step {snapshot.learner_step}")
