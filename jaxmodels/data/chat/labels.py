r"""Labels of exchanges by rule: the intent of the prompt, and whether the response answers.

The question of a prompt is its last sentence that asks: one that ends with a question mark, begins
as a question does, or demands an explanation. With `a question`, the first that applies decides:

    math       numbers are computed with
    refusal    the response refuses
    greeting   nothing but a greeting
    identity   a question about the speaker: name, age, origin, nature, occupation, family
    opinion    a question what the other one thinks or likes; or "I think", "I love" and their like
    fact       a question without "I", "you", "he", "it", "that" ...: about the world
    question   any other question
    ""         none of these: a mere statement

The patterns read English; case and punctuation do not matter. `python -m
jaxmodels.data.chat.report` shows what they do to the packaged corpora.
"""

import re
import unicodedata

INTENTS = ("greeting", "question", "fact", "refusal", "opinion", "identity", "math")

_NUMBER = (
    r"(?:-?\d+(?:[.,]\d+)*|zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|"
    r"(?:thir|four|fif|six|seven|eigh|nine)teen|(?:twen|thir|for|fif|six|seven|eigh|nine)ty|"
    r"hundred|thousand)"
)
_YOU = r"(?:you|u|ya)"
_ARE = r"(?:are|r)"
_HELLO = r"(?:h+e+l+o+|h+i+|h+e+y+|hiya|howdy|yo|greetings|welcome)"
_TIME = r"(?:good (?:morning|afternoon|evening|day)|top of the morning(?: to you)?)"
_HOW = (
    rf"(?:how (?:{_ARE} |do )?(?:{_YOU}|things)(?: do)?|how ?(?:is|s) (?:it|life|everything)|"
    r"wh?at ?(?:is|s)? ?up|wass?up|sup|whats? (?:is )?going on)"
    r"(?: (?:doing|going|feeling|hanging|today|tonight|all))*"
)
_MEET = r"(?:(?:it ?i?s )?(?:a pleasure|nice|great|good) to meet you)"
_ADDRESS = (
    r"(?:there|all|everyone|everybody|friend|buddy|man|dude|again|"
    r"(?:is )?any ?(?:one|body)(?: (?:in |out )?(?:there|home|here))?|are you there)"
)
_OPENING = rf"(?:{_HELLO}|{_TIME}|{_HOW}|{_MEET}|{_ADDRESS})"
_BEGINNINGS = (
    r"(?:(?:what|whats|who|whos|whom|whose|when|where|wheres|which|why|how|hows|define|explain|"
    r"describe|name|tell me) \S|(?:can|could|will|would|shall|should|may|might|must|is|are|am|was|"
    r"were|do|does|did|has|have|had|isnt|arent|dont|doesnt|didnt) "
    r"(?:you|u|ya|i|we|he|she|it|they|there|anyone|anybody|that|this|your|people)\b)"
)

MATH = re.compile(
    rf"\b{_NUMBER} (?:plus|minus|times|multiplied by|divided by|to the power of) {_NUMBER}\b"
    r"|\d ?[+*^=] ?-?\d|^(?:what ?(?:is|s) |how much is )?\d+ ?[-/x] ?\d+$|\d ?(?:%|percent) of \d"
    rf"|\b(?:sum|product|difference) of {_NUMBER} and {_NUMBER}\b|\b(?:square|cube) root of \d"
)
REFUSAL = re.compile(
    r"^(?:(?:im |i am )?(?:very |so )?sorry )?(?:but )?(?:as an ai (?:language )?(?:model )?)?(?:"
    r"(?:i (?:cannot|cant|can not|wont|will not|refuse to|am not (?:able|allowed|going) to|"
    r"am unable to|would (?:rather|prefer) not(?: to)?)|id (?:rather|prefer) not(?: to)?|"
    r"im (?:not (?:able|allowed|going) to|unable to)) "
    r"(?:help(?: you| with|$)|answer|tell you|say$|discuss|talk|assist|provide|comply|reveal|"
    r"do that)\b"
    r"|no comment\b|none of your business\b|mind your own business\b|no (?:thanks|thank you)$"
    r"|that ?(?:is|s) (?:personal|private|classified|confidential|(?:a|my) secret)\b"
    r"|i (?:do not|dont) want to (?:talk|answer|tell|say|discuss)\b)"
)
UNKNOWING = re.compile(
    r"\bi (?:\w+ )?(?:do not|dont|didnt|wouldnt|cannot|cant|can not|couldnt) (?:\w+ )?"
    r"(?:know|remember|recall|understand|say|tell|answer)\b(?! (?:that|if i would|about you)\b)"
    r"|\bidk\b|\bdunno\b|\bno (?:idea|clue)\b|^(?:um |well |hm+ )?(?:im |i am )?not (?:\w+ )?sure\b"
    r"|\b(?:im|i am) (?:uncertain|unsure|not certain)\b|^who knows\b|\bhard to say\b"
    r"|\bi have(?:nt| not) (?:been programmed|yet (?:learned|studied|been)|a clue)"
)
IDENTITY = re.compile(
    rf"\b(?:who|how old) {_ARE} {_YOU}\b|\bwhat {_ARE} {_YOU}(?: then| really| exactly)?$"
    r"|\b(?:what ?(?:is|s)|tell me) (?:your|ur) (?:real |full |first |last )?"
    r"(?:name|age|number|location|gender|job|birthday|purpose|address|occupation|major)\b"
    r"|\bwho (?:made|created|built|programmed|designed|wrote) you\b"
    r"|\bwho ?(?:is|s|was) your (?:father|mother|boss|master|creator|maker|inventor|owner)\b"
    rf"|\b{_ARE} {_YOU} (?:(?:a|an|really|actually|just) )*(?:human|robot|bot|machine|computer|"
    r"program|programmer|person|real|alive|sentient|sapient|conscious|ai|chat ?bot|software|"
    r"immortal|man|woman|boy|girl|guy|male|female|student|married|single)\b"
    rf"|\bwhere {_ARE} {_YOU}(?: (?:from|born|located|at))?$|\bwhere do {_YOU} (?:live|come from)\b"
    rf"|\bwhat (?:do {_YOU} do(?: for (?:a living|work|fun))?$|language {_ARE} you\b)"
    rf"|\bdo {_YOU} have (?:a |an |any )?(?:name|brothers?|sisters?|siblings?|family|body|feelings|"
    r"emotions|children|kids|pets?|parents?|soul|brain|gender)\b"
    r"|\b(?:describe|about) your ?self$|\bwhat (?:are|is) your (?:interests?|hobby|hobbies)\b"
)
OPINION = re.compile(
    rf"\b(?:what|how) (?:do|did|would) {_YOU} (?:think|feel|say|like)\b|\bthoughts on\b"
    rf"|\b(?:do|dont) {_YOU} (?:\w+ )?(?:think|like|love|hate|prefer|believe|enjoy|agree)\b"
    rf"|\bwould {_YOU} (?:rather|prefer)\b|\bwhich (?:one )?is (?:better|best|worse|worst)\b"
    r"|\b(?:your|ur) (?:\w+ )?(?:favou?rites?|opinion|thoughts?|preference)\b"
    r"|\bshould (?:i|we|you|they|people|there)\b|\bis it (?:right|wrong|good|bad) to\b"
)
STATED_OPINION = re.compile(
    r"\bi (?:really |just |also |dont |do not |honestly |personally )*"
    r"(?:think|believe|prefer|love|hate|like|enjoy|agree|disagree)\b|\bin my opinion\b|\bimh?o\b"
)
GREETING = re.compile(rf"^(?:(?:oh|well|and|ok|okay|so) )?{_OPENING}(?: {_OPENING})*$")
ASKS = re.compile(rf"^(?:(?:so|and|but|well|ok|okay|please|then|oh) )*{_BEGINNINGS}")
ASKS_LATER = re.compile(r"\b(?:what|which|who|whose) \S|\bwhat$")
IN_TALK = re.compile(  # the speakers anywhere; near the beginning, what was spoken of
    r"\b(?:i|im|ive|(?<!tell )me|my|mine|you|u|ya|your|youre|ur|yours|yourself|we|ours?)\b"
    r"|^(?:\S+ ){0,2}(?:he|she|her|it|they|them|that|thats|this|these|those|there)\b"
)
_WITHIN_WORD = re.compile(r"['\u2018\u2019`]|(?<=\b[a-z])\.(?=[a-z]\b)")  # "it's", "U.S."
_NOISE = re.compile(r"[^\w\s+*/^=%.,-]|[.,](?!\d)|(?<!\d)[.,]|_")
_SENTENCE = re.compile(r"(?:[^.!?\n]|(?<=\b\w)\.|\.(?=\w))+[.!?]*|[.!?]+")  # "U.S." is none


def intent_of(prompt: str, response: str = "") -> str:
    """Return the intent of a prompt, one of `INTENTS`, or "" for a mere statement.

    The classes have none for "Yeah, same here.": a label would only be noise to the head that
    learns it. A response that refuses makes the intent "refusal".
    """
    text, asked = plain(prompt), question_of(prompt)
    if MATH.search(text):
        return "math"
    if REFUSAL.search(plain(response)):
        return "refusal"
    if GREETING.search(text):
        return "greeting"
    if IDENTITY.search(asked):
        return "identity"
    if OPINION.search(asked) or (not asked and STATED_OPINION.search(text)):
        return "opinion"
    if not asked:
        return ""
    about_world = ASKS.search(asked) or ASKS_LATER.search(asked)
    return "fact" if about_world and not IN_TALK.search(asked) else "question"


def answerable_of(prompt: str, response: str) -> bool:
    """Return False if the response refuses, or if it does not know the answer to a question."""
    text = plain(response)
    if REFUSAL.search(text):
        return False
    first = next((plain(s) for s in _SENTENCE.findall(response) if plain(s)), "")
    return not (UNKNOWING.search(first) and question_of(prompt))


def question_of(prompt: str) -> str:
    """Return the last sentence that asks, as `plain` does, or ""."""
    for sentence in reversed(_SENTENCE.findall(prompt)):
        text = plain(sentence)
        if text and ("?" in sentence or ASKS.search(text)):
            return text
    return ""


def plain(text: str) -> str:
    """Return a text in lower case, without apostrophes and punctuation but signs of arithmetic.

    >>> plain("What's 2.5 + 2, then?")
    'whats 2.5 + 2 then'
    """
    text = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(_NOISE.sub(" ", _WITHIN_WORD.sub("", text)).split())
