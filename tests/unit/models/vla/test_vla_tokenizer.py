"""Prompts by hand, and a sentencepiece model that is trained here."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lwd.errors import ConfigError
from lwd.models.normalizer import Normalizer
from lwd.models.vla.config import DUMMY, PI05
from lwd.models.vla.networks import VlaModel
from lwd.models.vla.tokenizer import Bytes, Prompter, SentencePiece, Tokenizer, discretise, with_state
from lwd.spec import CameraSpec, RobotSpec

STATE = np.array([-1.0, -0.5, 0.0, 0.999, 1.0, -1.2, 3.0], np.float32)


def test_bins_by_hand():
    """Bins are 1/128 wide; 0 opens bin 128, the range's end falls into the last, what is below it into -1."""
    assert discretise(STATE).tolist() == [0, 64, 128, 255, 255, -1, 255]
    assert discretise(np.array([-1.0 + 1 / 128])).tolist() == [1]


def test_the_prompt_of_pi05():
    text = with_state("put it away", np.array([0.0, -1.0]))
    assert text == "Task: put it away, State: 128 0;\nAction: "
    ids = Prompter(tokenizer=Bytes(), length=60)(" put_it\naway ", np.array([0.0, -1.0]))
    assert ids.dtype == np.int32
    assert ids[0] == 2
    assert bytes((ids[1 : np.count_nonzero(ids)] - 3).tolist()).decode() == text
    assert not ids[np.count_nonzero(ids) :].any()


def test_the_prompt_of_pi0_has_no_state_and_ends_a_line():
    ids = Prompter(tokenizer=Bytes(), length=8, variant="pi0")("go", STATE)
    assert ids.tolist() == [2, ord("g") + 3, ord("o") + 3, ord("\n") + 3, 0, 0, 0, 0]


def test_a_prompt_that_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="has 29 tokens, the network reads 20"):
        Prompter(tokenizer=Bytes(), length=20)("", np.array([0.0]))


ROBOT = RobotSpec(
    name="seer",
    proprio_dim=3,
    action_dim=2,
    control_hz=10.0,
    chunk_steps=3,
    cameras=(CameraSpec(name="base", height=56, width=56),),
)


def test_published_networks_without_their_tokenizers_are_refused():
    with pytest.raises(ConfigError, match="no file for the prompt 'gemma3' and 'paligemma'"):
        VlaModel(policy=PI05, critic="270m").for_robot(ROBOT)
    with pytest.raises(ConfigError, match="no file for the prompt 'gemma3'"):
        VlaModel(critic="270m", tokenizers={"paligemma": Path("any.model")}).for_robot(ROBOT)
    VlaModel().for_robot(ROBOT)  # bytes


def test_a_tokenizer_with_more_ids_than_the_network_has_rows_is_refused():
    """JAX would read the last row in place of the missing ones."""

    class Network:
        normalizer = Normalizer.identity(3)

    assert max(Bytes().encode("ÿ", begin=True)) < Bytes().size == 259
    VlaModel(policy=replace(DUMMY, vocabulary=259)).for_robot(ROBOT).prompts(Network)
    with pytest.raises(ConfigError, match="'bytes' has 259 ids, the network's token table has 258 rows"):
        VlaModel(policy=replace(DUMMY, vocabulary=258)).for_robot(ROBOT).prompts(Network)


def test_sentencepiece(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    lines = ["put the cup on the table", "open the drawer 0 1 2 3 4 5 6 7 8 9", "Task: State: Action: ;"] * 5
    with (tmp_path / "tokenizer.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=file,
            vocab_size=60,
            pad_id=0,
            eos_id=1,
            bos_id=2,
            unk_id=3,
            hard_vocab_limit=False,
            minloglevel=9,
        )
    tokenizer = SentencePiece(tmp_path / "tokenizer.model")
    assert isinstance(tokenizer, Tokenizer)
    ids = tokenizer.encode("put the cup", begin=True)
    assert ids[0] == 2
    assert 0 not in ids
    assert max(ids) < tokenizer.size <= 60
    assert tokenizer.encode("put the cup") == ids[1:]
    (tmp_path / "broken.model").write_bytes(b"no model")
    for name in ("broken.model", "missing.model"):
        with pytest.raises(ConfigError, match="no readable sentencepiece model"):
            SentencePiece(tmp_path / name)
