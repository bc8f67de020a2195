"""Logs: torn, damaged and foreign lines, and files that cannot be written."""

import errno
import io
import os

import pytest

from eval.log import json_lines, read_log
from jaxmodels.errors import DiskError
from train.io.log import RunLog, keep_log, read_metrics, truncate_log


def lines(*steps):
    return [f'{{"step": {step}, "split": "train", "loss": 1.0}}\n'.encode() for step in steps]


@pytest.mark.parametrize(
    "foreign",
    [
        [b"\n"],
        [b'{"step": 3, "split": "tr\n'],
        [b'{"note": "by hand"}\n', b"[1, 2]\n", b"7\n"],
        [b"\0" * 40 + b"\n"],
        [b'{"step": "3"}\n', b"caf\xe9\n"],
    ],
)
def test_damaged_lines_are_put_aside(tmp_path, foreign):
    path, said = tmp_path / "metrics.jsonl", []
    first, second, third, later, torn = *lines(1, 2, 3, 9), b'{"step": 9, "sp'
    path.write_bytes(b"".join([first, second, *foreign, third, later, torn]))
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3, 9]
    assert [row["step"] for row in read_log(tmp_path).rows] == [1, 2, 3, 9]
    truncate_log(path, 3, said.append)
    assert path.read_bytes() == first + second + third
    assert (tmp_path / "damaged" / "metrics.jsonl").read_bytes() == b"".join(foreign)
    assert len(said) == 1 and said[0].startswith("metrics.jsonl: line") and " 3" in said[0]
    truncate_log(path, 3, said.append)
    assert len(said) == 1  # once


def test_the_log_of_a_run_without_its_checkpoints_is_kept(tmp_path):
    path, aside, said = tmp_path / "metrics.jsonl", tmp_path / "damaged" / "metrics.jsonl", []
    keep_log(tmp_path, 10, said.append)
    path.write_bytes(b"".join(lines(1, 9)))
    keep_log(tmp_path, 10, said.append)  # killed before its first checkpoint: it begins anew
    assert not said and not aside.parent.exists()
    path.write_bytes(b"".join(lines(1, 10, 14)))
    keep_log(tmp_path, 10, said.append)
    assert aside.read_bytes() == path.read_bytes()
    assert said == ["metrics.jsonl: reached step 14, whose checkpoints are gone; kept in damaged/"]


def test_a_torn_line_is_cut_without_a_word(tmp_path):
    path, said = tmp_path / "metrics.jsonl", []
    path.write_bytes(b"".join(lines(1, 2)) + b'{"step": 3, "spl')
    truncate_log(path, 5, said.append)
    assert path.read_bytes() == b"".join(lines(1, 2))
    assert not said and not (tmp_path / "damaged").exists()


def test_a_last_line_without_its_end_is_kept_if_it_is_whole(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"".join(lines(1, 2)).rstrip())
    truncate_log(path, 2, None)
    assert path.read_bytes() == b"".join(lines(1, 2))


def test_readers_go_on_past_damaged_lines(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"a": 1}\n\n{"b": \n{"c": 3}\ncaf\xe9\n[1]\n{"d": 4}\n{"e')
    assert json_lines(path) == [{"a": 1}, {"c": 3}, {"d": 4}]
    (tmp_path / "metrics.jsonl").write_bytes(
        b'{"step": 5, "split": "train", "loss": "high"}\n{"step": null, "split": "valid"}\n'
        + lines(6)[0]
    )
    log = read_log(tmp_path)
    assert (log.last_step, log.series("train", "loss")) == (6, ([6], [1.0]))


def test_timing_does_not_continue_a_torn_line(tmp_path):
    (tmp_path / "timing.jsonl").write_bytes(b'{"step": 1}\n{"ste')
    log = RunLog(tmp_path, 0)
    log.timing({"step": 2})
    log.close()
    assert (tmp_path / "timing.jsonl").read_bytes() == b'{"step": 1}\n{"step": 2}\n'


class Full(io.FileIO):
    """A file on a disk that is full."""

    full = True

    def write(self, data):
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data)


def full(path, mode, encoding="utf-8"):
    return io.TextIOWrapper(io.BufferedWriter(Full(path, "a")), encoding=encoding)


def test_a_full_disk_is_a_disk_error(tmp_path, monkeypatch):
    monkeypatch.setattr("train.io.log.open", full, raising=False)
    log = RunLog(tmp_path, 0)
    with pytest.raises(DiskError, match=r"metrics.jsonl: cannot be written \(No space left"):
        log.write(1, "train", {"loss": 1.0})
    log.close()  # without a second error


def test_tensorboard_is_given_up_with_a_word(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(
        "tensorboardX.record_writer.open_file", lambda path: io.BufferedWriter(Full(path, "w"))
    )
    log = RunLog(tmp_path, 0, said.append)
    log.write(1, "train", {"loss": 1.0})
    log.flush()
    log.write(2, "train", {"loss": 1.0})
    log.close()
    assert said == [
        "no more TensorBoard events: No space left on device; metrics.jsonl has them all"
    ]
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]
