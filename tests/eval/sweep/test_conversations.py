"""Scores of conversations in a sweep."""

from eval.sweep.sections import conversations


def test_mean_and_deviation_over_seeds():
    def run(entry, seed, bits, **scores):
        splits = {"valid": {}, "test": {"bits_per_byte": bits, **scores}}
        kept = {"parameters": 1200, "splits": splits}
        return {"entry": entry, "seed": seed, "conversation": kept}

    intent = {"accuracy": 0.75, "majority": 0.5}
    runs = [run("RNK", 1, 2.2, intent=intent), run("RNK", 0, 2.0, intent=intent)]
    runs += [run("GRU", 0, 2.5), {"entry": "none", "seed": 0}]
    result = {"entries": {"RNK": {}, "GRU": {}, "none": {}}, "runs": runs}
    _, text, table = conversations.section(result)
    assert "test split" in text.text and "most frequent intent is 50.0 %" in text.text
    assert [row[:5] for row in table.rows] == [
        ["RNK", "1,200", "2", "2.100 ± 0.141", "0.750 ± 0.000"],
        ["GRU", "1,200", "1", "2.500", "-"],
    ]
    assert conversations.section({"entries": {"none": {}}, "runs": runs[-1:]}) == []
