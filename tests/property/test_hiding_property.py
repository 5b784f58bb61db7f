"""A secret is in no bundle, whatever it is and however it is spelled there."""

import base64
import html
import json
import re
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge_store.support.hiding import Hiding
from edge_store.support.spelled import LAYERS_MAX, READINGS_MAX, readings

LAYERS: dict[str, Callable[[str], str]] = {
    "percent": lambda text: quote(text, safe=""),
    "percent, small letters": lambda text: re.sub(
        "%..", lambda found: found[0].lower(), quote(text, safe="")
    ),
    "all percent": lambda text: "".join(f"%{octet:02x}" for octet in text.encode()),
    "json": json.dumps,
    "json, utf-8": lambda text: json.dumps(text, ensure_ascii=False),
    "go": lambda text: json.dumps(text).replace("&", "\\u0026").replace("=", "\\u003d"),
    "php": lambda text: json.dumps(text).replace("/", "\\/"),
    "python": repr,
    "html": html.escape,
    "html, numbers": lambda text: "".join(f"&#x{ord(each):x};" for each in text),
}
PLACES = (
    "{}", "https://host/path?a=1&token={}&b=2", "authorization: Bearer {}", '{{"api_key":"{}"}}',
    "EDGE_STORE_X={}", "failed for {}, and again", "a%3D{}%26b",
)  # fmt: skip
# as ``known_secrets`` gives them: words of at least six characters
WORDS = st.text(
    st.characters(codec="utf-8", exclude_categories=("Z", "C")), min_size=6, max_size=40
).filter(lambda text: len(text.split()) == 1)


@given(WORDS, st.lists(st.sampled_from(sorted(LAYERS)), max_size=4), st.sampled_from(PLACES))
@example("p%2Fw%41&x", ["json", "percent"], PLACES[0])
@example("a\\nbcd\\\\e", ["json", "json"], PLACES[3])
@example("0000'\\", ["html", "go"], PLACES[0])
@example("über%3Dgeheim", ["all percent"], PLACES[6])
def test_a_known_secret_is_hidden_in_every_spelling(
    secret: str, layers: list[str], place: str
) -> None:
    spelled = secret
    for layer in layers:
        spelled = LAYERS[layer](spelled)
    said = Hiding([secret], {}, b"key")(place.format(spelled))
    assert "(hidden)" in said
    assert spelled not in said
    assert not [each for each in readings(said) if secret in each.text]


@given(
    WORDS,
    st.binary(max_size=5).map(lambda octets: octets.decode("latin-1")),
    st.sampled_from([base64.b64encode, base64.urlsafe_b64encode]),
    st.sampled_from(["user:", "", "a", "ab"]),
)
def test_a_known_secret_is_hidden_in_base64(
    secret: str, behind: str, encode: Callable[[bytes], bytes], before: str
) -> None:
    spelled = encode(f"{before}{secret}{behind}".encode()).decode()
    assert Hiding([secret], {}, b"key")(f"x: {spelled} y") == "x: (hidden) y"


NAMES = (
    "api_key", "x-api-key", "OPENAI_API_KEY", "access_token", "X-Amz-Signature", "sig", "password",
    "X-Amz-Security-Token", "client_secret", "AccountKey", "SharedAccessSignature", "passphrase",
    "X-Amz-Credential", "secret_access_key", "authorization", "Token",
)  # fmt: skip
FORMS = ("{}={}", "{}: {}", '{{"{}": "{}"}}', "?a=1&{}={}&b=2", "{}='{}'", "export {}={}")


@given(
    st.sampled_from(NAMES),
    st.sampled_from(FORMS),
    st.text("QXZJ0123456789/+._-", min_size=8, max_size=40).filter(lambda text: text[0].isalnum()),
    st.lists(st.sampled_from(sorted({*LAYERS} - {"python"})), max_size=3),
)
@example("sig", FORMS[3], "Eh/Axy+X", ["percent", "percent"])
def test_what_is_called_a_secret_is_hidden_in_every_spelling(
    name: str, form: str, secret: str, layers: list[str]
) -> None:
    spelled = form.format(name, secret)
    for layer in layers:
        spelled = LAYERS[layer](spelled)
    said = Hiding((), {}, b"key")(f"GET {spelled} failed")
    assert not [each for each in readings(said) if secret in each.text], said
    assert said.startswith("GET ")
    assert name == "authorization" or said.endswith(" failed")  # that goes on to the line's end


# what begins a secret's shape, and what goes before or behind it; five characters are no secret
BEGUN = (
    "sk-", "ghp_", "AKIA", "AIza", "ya29.", "eyJ", "bearer ", "Bearer\t", "https://", "://a:", "@",
    "-----BEGIN PRIVATE KEY-----", "cookie: ", "authorization=", "token", "sig=", "?key=", "passwd",
    "credentials: ", "-----",
)  # fmt: skip
QUOTED = ('"x-api-key": "', "(b'secret', b'", 'authorization="')
BESIDE = (
    " ",
    "\n",
    "short",
    "'",
    '"',
    ")",
    ",",
    "&",
    "a b",
    "=",
    ": ",
    "%3D",
    "\\u003d",
    "&equals;",
)


@given(st.lists(st.sampled_from([*BEGUN, *QUOTED, *BESIDE])).map("".join))
def test_what_is_hidden_once_stays_so(text: str) -> None:
    hide = Hiding(["correct-horse-battery"], {}, b"key")
    once = hide(text)
    assert hide(once) == once


SHORT = st.tuples(st.sampled_from([*BEGUN, *QUOTED]), st.sampled_from(["", "abc", "x1"])).map(
    lambda each: f"{each[0]}{each[1]}{each[0][-1] if each[0] in QUOTED else ''}\n. ,\n"
)


@given(st.lists(SHORT).map("".join))
def test_what_only_begins_as_a_secret_stays_as_it_is(text: str) -> None:
    assert Hiding(["correct-horse-battery"], {}, b"key")(text) == text


@pytest.mark.parametrize("layers", [LAYERS_MAX, READINGS_MAX + 1])
def test_the_layers_that_are_undone_have_a_bound(layers: int) -> None:
    spelled = "%" + "25" * (layers - 1) + "41bcdef"  # an A under so many layers
    said = Hiding(["Abcdef"], {}, b"key")(spelled)
    assert said == ("(hidden)" if layers < READINGS_MAX else spelled)
