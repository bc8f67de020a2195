"""Files of a tokenizer: found, read, written beside weights, and what ends an answer."""

from __future__ import annotations

import json

import pytest

from jaxmodels.data import ByteTokenizer
from jaxmodels.data.chat.template import read_template
from jaxmodels.data.tokenizers import folder as module
from jaxmodels.data.tokenizers.folder import (
    check_size,
    endings,
    files_of,
    is_read,
    read_tokenizer,
    special_tokens,
)
from jaxmodels.data.tokenizers.rwkv_world import FILE
from jaxmodels.errors import UserError
from tests.data.tokenizers.test_rwkv_world import SMALL, VOCABULARY
from tests.data.tokenizers.worlds import family

CONFIG = {"chat_template": "{{ bos_token }}", "bos_token": "<s>", "eos_token": "</s>"}


def fill(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, value in files.items():
        text = value if isinstance(value, str) else json.dumps(value)
        (folder / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def llama(tmp_path):
    text = family("byte_fallback").to_str()
    return fill(tmp_path / "llama", tokenizer__json=text, tokenizer_config__json=CONFIG)


def test_names_and_places(llama):
    assert not any(map(is_read, ("byte", "bpe", "char", "word")))
    assert all(map(is_read, ("rwkv_world", "tokenizer.json", "a/b", "~", "vocab.txt")))
    assert read_tokenizer(llama) == read_tokenizer(llama / "tokenizer.json")


def test_a_folder_is_written_and_read_back(llama, tmp_path):
    fill(llama, generation_config__json={"eos_token_id": [2, 1]}, chat_template__jinja="{{ 1 }}")
    fill(llama, README__md="not of the tokenizer")
    tokenizer = read_tokenizer(llama)
    for source in (llama, llama / "tokenizer.json"):
        files = files_of(tokenizer, source)
        names = ["chat_template.jinja", "generation_config.json"]
        assert sorted(files) == [*names, "tokenizer.json", "tokenizer_config.json"]
        assert all(text == (llama / name).read_text() for name, text in files.items())
    again = tmp_path / "again"
    again.mkdir()
    for name, text in files.items():
        (again / name).write_text(text)
    assert read_tokenizer(again) == tokenizer and read_template(again).source == "{{ 1 }}"
    assert endings(again, tokenizer) == ((2, 1), ())


def test_ids_of_an_end_come_from_the_models_config_too(llama):
    tokenizer = read_tokenizer(llama)
    assert endings(llama, tokenizer) == ((2,), ())  # of eos_token
    assert "generation_config.json" not in files_of(tokenizer, llama)
    fill(llama, config__json={"model_type": "mamba", "eos_token_id": 1})
    files = files_of(tokenizer, llama)
    assert json.loads(files["generation_config.json"]) == {"eos_token_id": 1}


def test_a_rwkv_vocabulary_travels_with_its_conversation(tmp_path):
    source = tmp_path / "vocabulary.txt"
    source.write_text(VOCABULARY)
    assert read_tokenizer(source) == SMALL
    files = files_of(SMALL, source)
    assert files[FILE] == VOCABULARY and "tokenizer.json" not in files
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert read_tokenizer(tmp_path) == SMALL
    assert endings(tmp_path, SMALL) == ((0,), ("\n\nUser:",))
    text = read_template(tmp_path).render([{"role": "user", "content": "a\n\nb"}])
    assert text == "User: a\nb\n\nAssistant:"


def test_a_fitted_tokenizer_has_one_file():
    assert files_of(ByteTokenizer()) == {"tokenizer.json": ByteTokenizer().to_json()}


def test_special_tokens_of_both_files(tmp_path):
    fill(tmp_path, special_tokens_map__json={"eos_token": "old", "pad_token": {"content": "<p>"}})
    fill(tmp_path, tokenizer_config__json=CONFIG | {"added_tokens_decoder": {}})
    assert special_tokens(tmp_path) == {"eos_token": "</s>", "bos_token": "<s>", "pad_token": "<p>"}


def test_sizes():
    tokenizer = ByteTokenizer()
    assert check_size(tokenizer, 256, "here") == ""
    assert "256 ids, 44 fewer than the model" in check_size(tokenizer, 300, "here")
    with pytest.raises(UserError, match=r"^here: its tokenizer has 256 ids and the model only 255"):
        check_size(tokenizer, 255, "here")


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, r"no tokenizer in this folder \(tokenizer.json or rwkv_vocab"),
        ({"tokenizer__json": '{"model"'}, "tokenizer.json: not a tokenizer description"),
        ({"tokenizer__json": {"kind": "runes"}}, "unknown tokenizer kind 'runes'"),
        ({"tokenizer__json": {"model": {}}}, "tokenizer.json: not a tokenizer.json of"),
        ({"tokenizer__json": ""}, "the file is empty"),
        ({"rwkv_vocab_v20230424__txt": "1 'a' 1\n"}, "no token for the byte 0x00"),
    ],
)
def test_bad_folders_get_one_line(tmp_path, files, says):
    fill(tmp_path, **files)
    with pytest.raises(UserError, match=says) as raised:
        read_tokenizer(tmp_path)
    assert str(tmp_path) in str(raised.value) and "\n" not in str(raised.value)


def test_a_missing_or_huge_file_gets_one_line(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no such file or folder"):
        read_tokenizer(tmp_path / "no.json")
    file = tmp_path / "tokenizer.json"
    file.write_text(ByteTokenizer().to_json())
    monkeypatch.setattr(module, "LARGEST", 10)
    with pytest.raises(UserError, match="bytes are no tokenizer"):
        read_tokenizer(file)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"eos_token_id": "</s>"}, "eos_token_id '</s>' is no id of a vocabulary of"),
        ({"eos_token_id": [1, 10**6]}, "eos_token_id 1000000 is no id"),
        ({"eos_token_id": True}, "eos_token_id True"),
        ({"stop_strings": [""]}, "stop_strings"),
        ({"stop_strings": {"a": 1}}, "stop_strings"),
        ([1], "expected an object of settings"),
    ],
)
def test_bad_endings_get_one_line(llama, fields, says):
    fill(llama, generation_config__json=fields)
    with pytest.raises(UserError, match=says):
        endings(llama, read_tokenizer(llama))
