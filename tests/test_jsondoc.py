from __future__ import annotations

import pytest

from dimgx.errors import ImageError
from dimgx.jsondoc import MAX_DEPTH, MAX_ITEMS, Fields, parse_json


def fields(text: str) -> Fields:
    return Fields(parse_json(text.encode(), "doc", 1 << 20), "doc")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"{", "not valid JSON"),
        (b"{} x", "not valid JSON"),
        (b'{"a":NaN}', "NaN is no number"),
        (b"[-Infinity]", "no number"),
        (b"[1e999]", "out of range"),
        (b"[-1e999]", "out of range"),
        (b"\xff\xfe{\0}\0", "not valid JSON"),
        (b"[" * 100_000, "nested deeper"),
        (b'{"a":' * 100_000, "nested deeper"),
        (b"[" * 500 + b"]" * 500, "nested deeper"),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "nested deeper"),
        (b'{"a":' * MAX_DEPTH + b"[]" + b"}" * MAX_DEPTH, "nested deeper"),
        (b"[" + b"9" * 5000 + b"]", "not valid JSON"),
        (b'["' + b"x" * (1 << 20) + b'"]', "at most"),
        (b'["a\nb"]', "not valid JSON"),
    ],
)
def test_what_is_no_json_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason) as raised:
        parse_json(data, "doc", 1 << 20)
    assert str(raised.value).startswith("doc ")
    assert str(raised.value).isprintable()


def test_what_go_reads_is_read() -> None:
    assert parse_json(b"\xef\xbb\xbf[1]", "doc", 99) == [1]
    assert parse_json(b'["\xff"]', "doc", 99) == ["\ufffd"]
    assert parse_json(b'{"a":1,"a":2}', "doc", 99) == {"a": 2}
    assert parse_json(b"[1]", "doc", 3) == [1]
    assert parse_json(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, "doc", 999)
    wide = b"[" + b",".join([b"[]"] * 1000) + b"]"
    assert len(parse_json(wide, "doc", 9999)) == 1000  # type: ignore[arg-type]


def test_keys_fit_in_any_case() -> None:
    found = fields('{"Config":"a","LAYERS":["b"],"x":null}')
    assert (found.text("CONFIG"), found.texts("layers")) == ("a", ["b"])
    assert fields('{"a":"1","A":"2","a":"3"}').text("a") == "3"
    assert "x" not in found and found.has("x") and found.has("X") and not found.has("y")


def test_integers_have_63_bits() -> None:
    assert fields('{"a":9223372036854775807}').integer("a") == (1 << 63) - 1
    assert fields('{"a":0}').integer("a") == 0


def test_lone_surrogates_become_replacement_characters() -> None:
    found = fields(
        '{"a":"x\\ud800y","b":["\\udfff"],"c":{"\\ud801":"\\ud802"},"d":"\\ud83d\\ude00"}'
    )
    assert found.text("a") == "x\ufffdy"
    assert found.texts("b") == ["\ufffd"]
    assert found.text_mapping("c") == {"\ufffd": "\ufffd"}
    assert found.text("d") == "\U0001f600"


def test_null_is_absent() -> None:
    found = fields('{"a":null,"b":[null]}')
    assert found.text("a") is None
    assert found.integer("a") is None
    assert found.fields("a") is None
    assert found.items("a") == found.objects("a") == found.texts("a") == []
    assert found.mapping("a") == {}
    assert found.boolean("a") is False
    assert found.texts("b") == [""]
    assert found.objects("b")[0].text("x") is None


WRONG = [
    ("text", "1"), ("text", "[]"), ("integer", '"1"'), ("integer", "1.5"), ("integer", "true"),
    ("integer", "-1"), ("integer", "9223372036854775808"), ("integer", "1e3"), ("boolean", "0"),
    ("fields", "[]"), ("items", "{}"), ("objects", "[1]"), ("texts", "[1]"), ("mapping", "[]"),
    ("texts", '"x"'), ("words", "1"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "value"), WRONG)
def test_a_value_of_the_wrong_type_is_refused(method: str, value: str) -> None:
    with pytest.raises(ImageError, match="doc: theKey"):
        getattr(fields(f'{{"THEKEY":{value}}}'), method)("theKey")


def test_a_list_has_at_most_so_many_items() -> None:
    for count, problem in ((MAX_ITEMS, ""), (MAX_ITEMS + 1, "doc: a has 100001 items; at most")):
        found = fields(f'{{"a":[{",".join(["1"] * count)}]}}')
        if problem:
            with pytest.raises(ImageError, match=problem):
                found.items("a")
        else:
            assert len(found.items("a")) == count


def test_what_is_no_object_is_refused() -> None:
    with pytest.raises(ImageError, match="no JSON object"):
        fields("[]")


def test_words_may_be_one() -> None:
    assert fields('{"a":"x y"}').words("a") == ["x y"]
    assert fields('{"a":["x","y"]}').words("a") == ["x", "y"]
