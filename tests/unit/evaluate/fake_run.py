"""A run directory made of invented numbers, as `lwd demo` would leave it. For tests of the report only."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from lwd.evaluate.records import EvaluationRecord, write_records
from lwd.evaluate.scores import score
from lwd.evaluate.summary import METHODS, Summary, summarise, write_summary
from lwd.spec import Horizon

TASKS: dict[str, Horizon] = {
    "restock": "short",
    "open_drawer": "short",
    "close_window": "short",
    "press_button": "short",
    "unlock_close_lock": "long",
    "rearrange": "long",
    "put_in_drawer_lock": "long",
    "rearrange_hard": "long",
}
_LEVEL = {"sft": 0.62, "lwd_offline": 0.74, "lwd_online": 0.86}


def fake_records(method: str, seed: int = 0, episodes: int = 40) -> list[EvaluationRecord]:
    records = []
    for index, (task, horizon) in enumerate(TASKS.items()):
        rng = np.random.default_rng([seed, index])
        level = _LEVEL[method] + (0.12 if horizon == "short" else -0.15) + 0.04 * rng.normal()
        for attempt in range(episodes):
            luck = rng.random()
            done = bool(luck < level)
            records.append(
                EvaluationRecord(
                    task=task,
                    seed=10_000 + attempt,
                    success=done,
                    stage_score=1.0 if done else float(np.round(0.75 * rng.random(), 2)),
                    cycle_time_s=float(
                        (9 if horizon == "short" else 24) * (1.0 if done else 1.8) * (0.8 + 0.4 * luck)
                    ),
                    steps=200,
                )
            )
    return records


def fake_summary(seed: int = 0, episodes: int = 40) -> Summary:
    methods = {
        name: summarise(score(fake_records(name, seed, episodes), TASKS, resamples=500)) for name in METHODS
    }
    online = summarise(
        score(fake_records("lwd_online", seed, episodes), TASKS, resamples=500),
        robot_hours=7.4,
        interventions=143,
        operator_minutes=31.5,
    )
    return Summary(
        seed=seed,
        wall_s=1043.0,
        tasks=TASKS,
        commit="d8c0480a12f3",
        hardware={"processor": "Intel Xeon 2.80GHz", "cores": "2", "memory_gib": "7.8"},
        software={"python": "3.11.9", "lwd": "0.1.0", "jax": "0.6.2", "mujoco": "3.3.2", "ogbench": "1.2.2"},
        command="lwd demo --seed 0 --out runs/demo",
        methods={**methods, "lwd_online": online},
    )


def _metrics(folder: Path, rng: np.random.Generator) -> None:
    folder.mkdir(parents=True)
    for stage, total in (("sft", 4000), ("offline", 6000), ("online", 3000)):
        lines = []
        for step in range(0, total, 25):
            p = step / total
            row: dict[str, object] = {"stage": stage, "learner_step": step, "time_s": step / 20}
            noise = 1 + 0.12 * rng.normal()
            if stage == "sft":
                row["policy/flow_matching_loss"] = (0.25 + 0.8 * np.exp(-6 * p)) * noise
            else:
                start, end = ((0.55, 0.2), (0.48, 0.32))[stage == "online"]
                entropy = end + (start - end) * np.exp(-4 * p) + 0.01 * rng.normal()
                base = 0.6 if stage == "offline" else 0.9
                row |= {
                    "value/entropy": entropy,
                    "value/tau": base - 0.3 * entropy,
                    "value/cross_entropy": (1.6 + 1.2 * np.exp(-5 * p)) * noise,
                    "value/quantile": 0.62 - 0.2 * np.exp(-4 * p) + 0.01 * rng.normal(),
                    "critic/loss": (0.006 + 0.03 * np.exp(-6 * p)) * noise,
                    "critic/td_error": (0.05 + 0.1 * np.exp(-6 * p)) * noise,
                    "policy/adjoint_norm": 0.4 * np.exp(rng.normal() * 0.3) * (1 + 2 * np.exp(-5 * p)),
                    "policy/path_kl": 3.1 * (1 - np.exp(-3 * p)) * noise,
                    "policy/saturated_share": 0.04 + 0.02 * p + 0.003 * rng.normal(),
                }
                if step % 1000 == 0:
                    row["evaluate/success"] = 0.62 + 0.12 * p + (0.12 if stage == "online" else 0)
            lines.append(json.dumps(row))
        (folder / f"{stage}.jsonl").write_text("\n".join(lines) + "\n")


def _episodes(path: Path, rng: np.random.Generator, robots: int = 16, seconds: float = 420.0) -> None:
    rows = []
    for robot in range(robots):
        t = float(rng.random() * 3)
        while t < seconds:
            p = t / seconds
            length = float(4 + 9 * rng.random())
            taken = rng.random() < 0.3 * (1 - p)
            done = rng.random() < 0.68 + 0.2 * p
            rows.append(
                {
                    "episode_id": f"{robot:02d}-{len(rows):05d}",
                    "robot": f"robot-{robot}",
                    "task": list(TASKS)[(robot + len(rows)) % 8],
                    "source": "online",
                    "snapshot": 1 + int(p * 58),
                    "outcome": "success" if done else ("unjudged" if rng.random() < 0.05 else "failure"),
                    "stage_score": 1.0 if done else 0.4,
                    "steps": int(length * 25),
                    "intervention_steps": int(length * 10) if taken else 0,
                    "takeovers": int(taken),
                    "started_s": 600 + t,
                    "ended_s": 600 + t + length,
                    "cycle_time_s": length * 2.4,
                }
            )
            t += length + 0.4
    path.write_text("".join(json.dumps(row) + "\n" for row in sorted(rows, key=lambda row: row["ended_s"])))


def _traces(path: Path, rng: np.random.Generator) -> None:
    atoms = np.linspace(0, 1, 51)
    traces = []
    for index in range(6):
        success = index % 2 == 0
        times = np.arange(0, 24 + 3 * index, 0.4)
        p = times / times[-1]
        centre = 0.4 + 0.6 * p**1.3 if success else 0.4 + 0.15 * np.minimum(1, 3 * p)
        centre = centre + 0.02 * rng.normal(size=len(p))
        width = 0.16 - 0.12 * p if success else np.full(len(p), 0.14)
        density = np.exp(-0.5 * ((atoms - centre[:, None]) / width[:, None]) ** 2)
        density /= density.sum(axis=1, keepdims=True)
        entropy = -(density * np.log(density + 1e-12)).sum(axis=1) / np.log(len(atoms))
        traces.append(
            {
                "task": ("rearrange", "unlock_close_lock", "restock")[index // 2],
                "outcome": "success" if success else "failure",
                "times_s": times.tolist(),
                "quantile": (centre + 0.3 * width).tolist(),
                "entropy": entropy.tolist(),
                "tau": (0.9 - 0.3 * entropy).tolist(),
                "probabilities": density.tolist(),
                "atoms": atoms.tolist(),
            }
        )
    path.write_text(json.dumps(traces))


def _dataset(path: Path) -> None:
    rows = []
    for task, horizon in TASKS.items():
        scale = 0.25 if horizon == "short" else 1.0
        for source, hours, failed in (
            ("demo", 2.4, 0.0),
            ("rollout", 1.3, 0.4),
            ("play", 1.2, 1.2),
            ("online", 0.9, 0.2),
        ):
            rows.append(
                {
                    "task": task,
                    "source": source,
                    "episodes": int(300 * hours * scale),
                    "hours": hours * scale,
                    "success_hours": (hours - failed) * scale,
                    "failure_hours": failed * scale,
                }
            )
    path.write_text(json.dumps(rows))


def write_fake_run(run_dir: Path) -> Path:
    """A complete run directory."""
    rng = np.random.default_rng(0)
    run_dir.mkdir(parents=True, exist_ok=True)
    write_summary(run_dir / "summary.json", fake_summary())
    for name in METHODS:
        write_records(run_dir / "evaluations" / f"{name}.json", fake_records(name))
    _metrics(run_dir / "metrics", rng)
    _episodes(run_dir / "episodes.jsonl", rng)
    _traces(run_dir / "value_traces.json", rng)
    _dataset(run_dir / "dataset.json")
    timing = {
        "collect": 141.0,
        "sft": 118.0,
        "evaluate sft": 64.0,
        "offline": 214.0,
        "evaluate offline": 66.0,
    }
    timing |= {"online": 372.0, "evaluate online": 61.0, "report": 6.2}
    (run_dir / "timing.json").write_text(json.dumps(timing))
    return run_dir
