"""Word lists that tell predicates and closed-class words apart, built in or read from files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxmodels.cli import did_you_mean
from jaxmodels.data.readers.files import find_files, numbered_lines
from jaxmodels.errors import UserError

CATEGORIES = ("verb", "noun", "pronoun", "determiner", "preposition", "closed")

# Base form, then "d" for a regular past or past and participle. Verbs mostly used as nouns are out.
_VERBS = """
accept:d achieve:d adopt:d afford:d agree:d allow:d announce:d appear:d appoint:d appreciate:d
approve:d ask:d assure:d authorize:d avoid:d become:became:become begin:began:begun believe:d
belong:d bring:brought:brought build:built:built buy:bought:bought call:d carry:d cease:d
choose:chose:chosen come:came:come complete:d confirm:d congratulate:d consider:d consist:d
contain:d continue:d create:d declare:d defend:d deliver:d deny:d depend:d describe:d deserve:d
desire:d destroy:d determine:d develop:d direct:d discover:d enable:d encourage:d enforce:d enjoy:d
ensure:d enter:d establish:d examine:d execute:d exist:d expand:d expect:d express:d extend:d fail:d
fall:fell:fallen fight:fought:fought find:found:found follow:d forget:forgot:forgotten gain:d
give:gave:given go:went:gone govern:d grant:d grow:grew:grown happen:d hear:heard:heard help:d
hold:held:held hope:d improve:d include:d increase:d inform:d insist:d intend:d introduce:d invest:d
invite:d join:d keep:kept:kept know:knew:known lead:led:led learn:d leave:left:left let:let:let
live:d look:d lose:lost:lost love:d maintain:d make:made:made manage:d meet:met:met move:d
negotiate:d obtain:d occur:d offer:d open:d owe:d pass:d pay:paid:paid perform:d
permit:permitted:permitted prepare:d present:d preserve:d prevent:d proceed:d produce:d promote:d
propose:d protect:d prove:d provide:d pursue:d reach:d receive:d recognize:d recommend:d reduce:d
refer:referred:referred refuse:d regard:d remain:d remember:d remove:d render:d renew:d repeal:d
replace:d report:d require:d resist:d respect:d restore:d retain:d run:ran:run save:d say:said:said
secure:d see:saw:seen seek:sought:sought seem:d send:sent:sent serve:d settle:d share:d show:d
sign:d speak:spoke:spoken spend:spent:spent stand:stood:stood start:d stop:stopped:stopped
strengthen:d submit:submitted:submitted succeed:d suffer:d suggest:d support:d suppose:d sustain:d
take:took:taken teach:taught:taught tell:told:told thank:d think:thought:thought
transmit:transmitted:transmitted transform:d try:d turn:d understand:understood:understood unite:d
urge:d visit:d vote:d walk:d want:d watch:d welcome:d win:won:won wish:d work:d write:wrote:written
eat:ate:eaten chase:d drink:drank:drunk like:d sleep:slept:slept sing:sang:sung read:read:read
play:d
"""

_CLOSED = {
    "pronoun": """i you he she it we they me him us them myself himself itself ourselves themselves
        who whom someone everyone nobody something everything nothing""",
    "determiner": """a an the this that these those my your his her its our their each every some
        any no all both many few several such other another which whose""",
    "preposition": """of in on at by for with from to into upon under over between among through
        during against without within toward towards about after before above across along around
        behind beyond since until""",
    "closed": """and or but nor so yet if because while although though when where than as whether
        how why there here not never also only then now very more most less just still again too
        always often be am is are was were been being have has had having do does did done will
        would shall should can could may might must ought let's however therefore thus""",
}


@dataclass(frozen=True)
class Lexicon:
    """Lower-case word -> (category, lemma). Words not in it count as nouns (content words).

    Categories: verb = a predicate; pronoun = an argument by itself; determiner = what follows is no
    verb; preposition = opens an oblique argument; noun = an argument; closed = never an argument.
    """

    entries: Mapping[str, tuple[str, str]]

    def __len__(self) -> int:
        return len(self.entries)


def builtin_lexicon() -> Lexicon:
    """Return about 230 English verbs in all their forms and 200 closed-class words."""
    entries = {}
    for item in _VERBS.split():
        base, *past = item.split(":")
        for form in _forms(base, past):
            entries[form] = ("verb", base)
    for category, words in _CLOSED.items():
        entries.update((word, (category, word)) for word in words.split())
    return Lexicon(entries)


def read_lexicon(paths: Sequence[str | Path] | str | Path) -> Lexicon:
    """Lexical resources (SYSTEMS P-20, `Data/complete_datasets`) plus the closed-class words.

    A `.tsv` file begins with a header line: `word<TAB>category<TAB>lemma` for entries, or
    `subject<TAB>verb<TAB>object` for triples, which give nouns, verbs, nouns. A `.txt` file is a
    word list; its file name (without suffix, up to the first `_`) is the category. Entries of
    files win over built-in ones, later ones over earlier ones. No verb is built in here: what the
    files do not list is none.

    Raises:
      UserError: with file and line, for a header, category or number of columns that does not fit.
    """
    entries = {k: v for k, v in builtin_lexicon().entries.items() if v[0] != "verb"}
    for file in find_files(paths, (".tsv", ".txt")):
        lines = numbered_lines(file)
        if file.suffix.lower() == ".txt":
            category = _category(file.stem.split("_")[0], f"{file}: file name")
            for _, word in lines:
                entries[word.strip().lower()] = (category, word.strip().lower())
            continue
        (_, header), *rows = lines
        columns = tuple(header.lower().split("\t"))
        if columns not in (("word", "category", "lemma"), ("subject", "verb", "object")):
            raise UserError(
                f"{file}:1: header must be word, category, lemma or subject, verb, object "
                f"(tab-separated), got {header!r}"
            )
        for number, row in rows:
            cells = [cell.strip().lower() for cell in row.split("\t")]
            if len(cells) != 3 or not all(cells):
                raise UserError(
                    f"{file}:{number}: expected 3 tab-separated cells "
                    f"({', '.join(columns)}), got {row!r:.60}"
                )
            if columns[0] == "word":
                entries[cells[0]] = (_category(cells[1], f"{file}:{number}"), cells[2])
            else:
                for word, category in zip(cells, ("noun", "verb", "noun"), strict=True):
                    # A pronoun stays one, although it stands where nouns stand.
                    if category == "verb" or word not in entries:
                        entries[word] = (category, word)
    return Lexicon(entries)


def _category(name: str, place: str) -> str:
    name = name.lower()
    if name in CATEGORIES:
        return name
    raise UserError(f"{place}: unknown category {name!r}{did_you_mean(name, CATEGORIES)}")


def _forms(base: str, past: list[str]) -> list[str]:
    consonant_y = base.endswith("y") and base[-2] not in "aeiou"
    if base.endswith(("s", "x", "z", "ch", "sh", "go")):
        third = base + "es"
    else:
        third = base[:-1] + "ies" if consonant_y else base + "s"
    if past == ["d"]:
        ending = base[:-1] + "ied" if consonant_y else base + ("d" if base.endswith("e") else "ed")
        past = [ending]
    # The present participle is left out: it mostly names ("the building of").
    return [base, third, *past]
