"""The regression gate's own code, and that its recording cannot change silently."""

from __future__ import annotations

import copy

import pytest

from tests.slow import gate

STAGES = tuple(gate.CURVES)


def numbers() -> str:
    """The changelog's sections "Numbers"."""
    parts = (gate.ROOT / "CHANGELOG.md").read_text(encoding="utf-8").split("\n### ")
    return "\n".join(part for part in parts if part.startswith("Numbers\n"))


def test_the_recording_is_declared_in_the_changelog():
    assert f"`{gate.RECORDED.name}` {gate.fingerprint()}" in numbers(), (
        f"{gate.RECORDED.name} was recorded anew without a line in CHANGELOG.md under Numbers; `{gate.COMMAND}` prints it"
    )


def test_every_stage_and_metric_is_recorded():
    recorded = gate.read_recorded()
    assert set(recorded["curves"]) == set(recorded["success"]) == set(STAGES)
    for stage, names in gate.CURVES.items():
        assert set(recorded["curves"][stage]) == set(names)
        assert all(recorded["curves"][stage][name] for name in names)


def test_it_reads_the_stages_that_it_ran(tmp_path, monkeypatch):
    ran, read = [], []
    monkeypatch.setattr(gate, "run_phases", lambda place, phases, console: ran.extend(phases))
    monkeypatch.setattr(gate, "_curves", lambda place, stage: {})
    monkeypatch.setattr(gate, "_success", lambda folder, method: read.append(method))
    gate.run(tmp_path / "run")
    assert [name.split()[-1].lower() for name in ran if name.startswith("evaluate")] == list(STAGES)
    assert read == ["sft", "lwd_offline", "lwd_online"]


def test_the_same_numbers_have_not_moved():
    recorded = gate.read_recorded()
    assert gate.moved(recorded, copy.deepcopy(recorded), STAGES) == []


@pytest.mark.parametrize(
    ("stage", "factor", "words"), [("offline", 1.03, 1), ("offline", 1.01, 0), ("online", 1.03, 0)]
)
def test_three_percent_moves_the_offline_stage_but_not_the_online_one(stage, factor, words):
    recorded = gate.read_recorded()
    changed = copy.deepcopy(recorded)
    curve = changed["curves"][stage]["value/cross_entropy"]
    last = list(curve)[-1]
    curve[last] *= factor
    sentences = gate.moved(recorded, changed, STAGES)
    assert len(sentences) == words
    if words:
        assert f"offline value/cross_entropy at learner step {last}" in sentences[0]
        assert "CHANGELOG.md" in gate.advice(sentences)


def test_a_metric_that_is_gone_or_not_a_number_has_moved():
    recorded = gate.read_recorded()
    changed = copy.deepcopy(recorded)
    del changed["curves"]["offline"]["policy/adjoint_norm"]
    changed["success"]["online"] = float("nan")
    sentences = gate.moved(recorded, changed, STAGES)
    assert len(sentences) == len(recorded["curves"]["offline"]["policy/adjoint_norm"]) + 1


def test_recording_prints_the_line_that_the_changelog_needs(tmp_path):
    path = tmp_path / "fast_tier.json"
    line = gate.write_recorded({"curves": {}, "success": {"sft": 0.5, "online": 0.75}}, path)
    assert f"`fast_tier.json` {gate.fingerprint(path)}: sft 0.50, online 0.75" in line
