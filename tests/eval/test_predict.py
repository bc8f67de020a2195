"""The command that answers questions: lines in and lines out."""

import io

from eval.predict import main as predict


class Upper:
    """A model that answers in capitals."""

    answerer = None

    def __init__(self, workdir, **options):
        pass

    def notes(self, questions):
        return [f"{len(questions)} questions"]

    def predict_all(self, questions, puzzles):
        return [question.upper() for question in questions]


def test_a_line_of_input_is_a_line_of_output(capsys, monkeypatch):
    monkeypatch.setattr("eval.evaluators.infer.HRLMInference", Upper)
    text = "\ufeffone\r\n\n  \ntwo\u2028and\x0bmore\rtext\nthree"
    for data, blank in ((text, 2), (text + "\n\n", 3)):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data.encode())))
        assert predict(["--workdir=x"]) == 0
        out, err = capsys.readouterr()
        lines = out.split("\n")[:-1]
        assert (lines[0], lines[1:3], lines[4]) == ("ONE", ["", ""], "THREE")
        assert lines[3].startswith("TWO") and lines[3].endswith("TEXT")
        assert lines.count("") == blank and err == "warning: 3 questions\n"
