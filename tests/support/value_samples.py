"""Extreme values for every type that a column can have, as PostgreSQL reads them from text.

Whoever adds a type to this file has considered how its values travel; `tests/integration/test_values.py` fails for a
type of the server that stands in none of these tables.
"""

from __future__ import annotations

from typing import Final

# Which of these a server rejects, because it is too old for them, is left out of its tables: see `NEWER`.
SAMPLES: Final[dict[str, tuple[str, ...]]] = {
    "bool": ("true", "false"),
    "bytea": ("", "\\x00ff", "\\x" + "00010203fafbfcfdfeff" * 40, "\\x22275c"),
    "char": ("a", '"', "\\", "\t", "\x7f", ""),
    "name": ("pg_class", 'Odd "name"', "é" * 31, ""),
    "int8": ("0", "-1", "9007199254740991", "9007199254740992", "9007199254740993", "-9007199254740993")
    + ("9223372036854775807", "-9223372036854775808"),
    "int2": ("0", "32767", "-32768"),
    "int4": ("0", "2147483647", "-2147483648"),
    "text": ("", "NULL", "null", "a\"b\\c'd", "\x01\x1f\x7f\u2028\U0001f600", "line\r\nline\t", "{1,2}", '{"$cut": "x"}', " é "),
    "oid": ("0", "4294967295"),
    "tid": ("(0,1)", "(4294967295,65535)"),
    "xid": ("0", "4294967295"),
    "cid": ("0", "4294967295"),
    "int2vector": ("", "1", "1 -2 32767"),
    "oidvector": ("", "1", "1 2 4294967295"),
    "regproc": ("now", "-", "pg_catalog.boolin"),
    "regprocedure": ("now()", "-", "sum(integer)"),
    "regoper": ("pg_catalog.||/", "0"),
    "regoperator": ("+(integer,integer)", "0"),
    "regclass": ("pg_class", "-", '"odd ""name"".x"', "4294967295"),
    "regtype": ("integer", "timestamp with time zone", "character varying[]", "-"),
    "regconfig": ("english", "simple", "-"),
    "regdictionary": ("english_stem", "-"),
    "regnamespace": ("pg_catalog", "public", "-"),
    "regrole": ("pg_monitor", "-"),
    "regcollation": ('"C"', '"default"', "-"),
    "regdatabase": ("template1", "-"),
    "json": (
        '{"a": 1, "b": [1, 2.5, null, true]}',
        '{"a":1,"a":2}',
        '{"b":1,"a":{"a":1,"a":1}}',
        ' { "a" :\t1 ,\n"b":2 } ',
        "[1 ,2]",
        "null",
        "true",
        '"text"',
        '"null"',
        '""',
        "[]",
        "{}",
        '{"":""}',
        "12345678901234567890",
        '{"n": 12345678901234567890.123456789}',
        "[1e400, 1E5, 1e-7, -0, 1.0, 1.10, 0.1]",
        "[-0.0]",
        "1.10",
        '"\\u0000"',
        '["\\ud83d\\ude00", "\\u00e9", "é", "\\/"]',
        '["\\ud800"]',
        '{"$cut": "x", "$bytes": 3}',
        '{"a, b": "c: d,  e"}',
        "[" * 60 + "]" * 60,
        "[" * 1500 + "]" * 1500,
        "[" * 2047 + "]" * 2047,
        '{"a":' * 300 + "1" + "}" * 300,
        '"a: 1234567890123456"',
        "[9007199254740993, 999999999999999, 0.123456789012345, 0.1234567890123456]",
    ),
    "jsonb": (
        '{"a": 1, "b": [1, 2.5, null, true]}',
        '{"b": 1, "aa": {"c": "d"}}',
        "null",
        "true",
        '"text"',
        '"null"',
        '"12"',
        '""',
        "[]",
        "{}",
        '{"":""}',
        "12345678901234567890",
        '{"n": 12345678901234567890.123456789, "deep": [{"m": [-98765432109876543210]}]}',
        "[1e300, 1E5, 1e-7, -0, 1.0, 1.10, 0.1, 1e-300]",
        "1.10",
        '["\\ud83d\\ude00", "\\u00e9", "\\u0001"]',
        '{"$cut": "x", "$bytes": 3}',
        '{"a, b": "c: d,  e"}',
        "[" * 60 + "]" * 60,
        "[" * 1500 + "]" * 1500,
        "[" * 2047 + "]" * 2047,
        '{"a":' * 300 + "1" + "}" * 300,
        '"a: 1234567890123456"',
        "[9007199254740993, 999999999999999, 0.123456789012345, 0.1234567890123456]",
    ),
    "jsonpath": ('$."a"[*]?(@ > 1)', "strict $", '$."quote \\" here"'),
    "xml": ("<a b='c'>\"&amp;\n</a>", "text", "<?xml version=\"1.0\"?><é/>", ""),
    "point": ("(1,2)", "(1e300,-1e-300)", "(NaN,Infinity)", "(0.1,0.2)"),
    "lseg": ("[(0,0),(1,1)]",),
    "path": ("((0,0),(1,1))", "[(0,0),(1,1.5)]"),
    "box": ("(1,1),(0,0)", "(Infinity,1),(0,-Infinity)"),
    "polygon": ("((0,0),(1,1),(1,0))",),
    "line": ("{1,2,3}", "{0,-1,0.5}"),
    "circle": ("<(0,0),1>", "<(1e300,1),0>"),
    "cidr": ("10.0.0.0/8", "2001:db8::/32"),
    "inet": ("10.1.2.3", "10.1.2.3/8", "::1", "2001:db8::1/64"),
    "macaddr": ("08:00:2b:01:02:03",),
    "macaddr8": ("08:00:2b:01:02:03:04:05",),
    "float4": ("0", "1.1", "NaN", "Infinity", "-Infinity", "3.4028235e38", "1e-45", "16777217", "-0"),
    "float8": ("0", "0.1", "NaN", "Infinity", "-Infinity", "1.7976931348623157e308", "5e-324", "9007199254740993")
    + ("1e15", "1e16", "123456789012345678", "-0", "0.30000000000000004"),
    "numeric": ("0", "0.00", "1.10", "NaN", "999999999999999", "9007199254740993", "0.1234567890123456")
    + ("-123456789012345678901234567890.123456789", "1e-1000", "1e1000", "-0.1", "0.000001", "123456789012.345"),
    "money": ("$1.00", "-$92,233,720,368,547,758.08", "$0.01"),
    "bpchar": ("", "a   ", '"\\', "é"),
    "varchar": ("", "NULL", '"\\', "é\n"),
    "date": ("2024-02-29", "infinity", "-infinity", "4714-11-24 BC", "0001-12-31 BC", "9999-12-31", "10000-01-01")
    + ("5874897-12-31",),
    "time": ("00:00", "24:00", "23:59:59.999999", "12:30:00.1"),
    "timetz": ("00:00+00", "24:00-15:59", "23:59:59.999999+15:59:59", "12:00+05:30"),
    "timestamp": ("2024-02-29 23:59:60", "infinity", "-infinity", "4714-11-24 00:00:00 BC", "0044-03-15 12:00 BC")
    + ("10000-01-01 00:00:00.000001", "294276-12-31 23:59:59.999999", "2024-03-31 02:30"),
    "timestamptz": ("2024-02-29 23:59:59.999999+00", "infinity", "-infinity", "4714-11-24 00:00:00+00 BC")
    + ("1800-01-01 12:00:00+00", "10000-01-01 00:00:00.000001+00", "294276-12-31 23:59:59.999999+00")
    + ("2024-10-27 00:30:00+00", "2024-10-27 01:30:00+00", "0044-03-15 12:00+00 BC"),
    "interval": ("0", "1 mon 2 days -3 s", "-178000000 years", "1 year -1 day 00:00:00.000001", "-00:00:01.5")
    + ("2562047788:00:54.775807", "infinity", "-infinity"),
    "bit": ("1", "0", "10101"),
    "varbit": ("", "1", "1" * 500),
    "refcursor": ("", 'my "cursor"'),
    "uuid": ("00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"),
    "txid_snapshot": ("10:20:10,14,15", "1:1:"),
    "pg_snapshot": ("10:20:10,14,15", "1:1:"),
    "pg_lsn": ("0/0", "FFFFFFFF/FFFFFFFF"),
    "xid8": ("0", "18446744073709551615", "9007199254740993"),
    "oid8": ("0", "18446744073709551615", "9007199254740993"),
    "tsvector": ("", "'a':1A 'b c':2,3B '\"':4", "'it''s' '\\\\'"),
    "tsquery": ("", "'a' & !'b c':*AB", "'x' <2> 'y' | 'it''s'"),
    "aclitem": ("=r/pg_monitor", "pg_monitor=arwdDxt*/pg_monitor"),
    "int4range": ("empty", "(,)", "[1,10)", "[-2147483648,)"),
    "int8range": ("empty", "(,)", "[9007199254740993,9223372036854775807)"),
    "numrange": ("empty", "(,)", "[1.10,2.20]", "(NaN,)", "(-Infinity,Infinity)"),
    "tsrange": ("empty", "(,)", '["2024-01-01 00:00:00",infinity]', '("0044-03-15 00:00:00 BC","10000-01-01 00:00:00")'),
    "tstzrange": ("empty", "(,)", '["2024-01-01 00:00:00+00",infinity]', '("1800-01-01 00:00:00+00",)'),
    "daterange": ("empty", "(,)", "[2024-01-01,infinity]", '["0044-03-15 BC",10000-01-01)'),
    "int4multirange": ("{}", "{[1,3),[5,9)}", "{(,)}"),
    "int8multirange": ("{}", "{[9007199254740993,9007199254740999)}"),
    "nummultirange": ("{}", "{[1.10,2.20],(3,)}"),
    "tsmultirange": ("{}", '{["2024-01-01 00:00:00","2024-01-02 00:00:00")}'),
    "tstzmultirange": ("{}", '{["2024-01-01 00:00:00+00","2024-01-02 00:00:00+00")}'),
    "datemultirange": ("{}", "{[2024-01-01,2024-01-05),[2024-02-01,)}"),
}

# Types that read no text, with a query for values of theirs; they are compared by what they write.
FROM_CATALOGUES: Final[dict[str, str]] = {
    "pg_node_tree": "SELECT adbin FROM pg_attrdef LIMIT 3",
    "pg_ndistinct": "SELECT stxdndistinct FROM pg_statistic_ext_data LIMIT 1",
    "pg_dependencies": "SELECT stxddependencies FROM pg_statistic_ext_data LIMIT 1",
    "pg_mcv_list": "SELECT stxdmcv FROM pg_statistic_ext_data LIMIT 1",
}

# Types of which no statement can make a value: they live inside of indexes.
NEVER_A_VALUE: Final = frozenset({"gtsvector", "pg_brin_bloom_summary", "pg_brin_minmax_multi_summary"})

# Samples that older servers do not know, with the version that does.
NEWER: Final[dict[tuple[str, str], int]] = {
    ("interval", "infinity"): 17,
    ("interval", "-infinity"): 17,
    ("numrange", "(-Infinity,Infinity)"): 14,
    ("aclitem", "pg_monitor=arwdDxt*/pg_monitor"): 13,
}

# Array literals that say more than a list of values; `%` stands for a sample of the element.
SHAPES: Final = (
    "{}",
    "{NULL}",
    "{%}",
    "{%,NULL,%}",
    "{{%,%},{NULL,%}}",
    "[0:1]={%,NULL}",
    "[-5:-4][2:3]={{%,%},{%,NULL}}",
    "{{{{{{%}}}}}}",
)

# Types of users: what is created, the type's name, samples as SQL expressions.
OF_USERS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "mood": ("CREATE TYPE mood AS ENUM ('sad', 'it''s \"ok\"', 'happy, é', '')", ("'sad'", "'it''s \"ok\"'", "'happy, é'", "''")),
    "short": ("CREATE DOMAIN short AS text CHECK (length(VALUE) < 9)", ("''", "'a\"\\'")),
    "big": ("CREATE DOMAIN big AS int8", ("9007199254740993", "1")),
    "document": ("CREATE DOMAIN document AS jsonb", ("'{\"a\": [12345678901234567890]}'", "'null'", "'\"x\"'")),
    "blob": ("CREATE DOMAIN blob AS bytea", ("'\\x00ff'",)),
    "series": ("CREATE DOMAIN series AS int8[]", ("'{1,9007199254740993}'", "'{}'", "'[0:1]={1,2}'", "'{1,NULL}'")),
    "of_domain": ("CREATE DOMAIN of_domain AS big", ("-9007199254740993",)),
    "pair": ("CREATE TYPE pair AS (a int8, \"b c\" text, d jsonb, e bytea, m mood)",)
    + (("ROW(9007199254740993, E'a\",(\\n', '{\"x\": 1}', '\\x00', 'sad')::pair", "ROW(NULL, NULL, NULL, NULL, NULL)::pair"),),
    "nested": ("CREATE TYPE nested AS (p pair, ps pair[])",)
    + (("ROW(ROW(1, '', NULL, NULL, NULL)::pair, ARRAY[ROW(1, 'x y', NULL, NULL, NULL)::pair, NULL])::nested",),),
    "moods": ("CREATE TYPE moods AS RANGE (subtype = mood)", ("'[sad,\"happy, é\")'", "'empty'")),
    "floats": ("CREATE TYPE floats AS RANGE (subtype = float8)", ("'[0.1,Infinity]'", "'(,)'")),
    "Odd \"type\".x": ("CREATE TYPE \"Odd \"\"type\"\".x\" AS ENUM ('a')", ("'a'",)),
}

# Extensions that are tried where the server has them, with a type of theirs and samples.
EXTENSIONS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "hstore": ("hstore", ('"a"=>"1", "b c"=>NULL, "\\""=>"é"', "")),
    "citext": ("citext", ("Text", "")),
    "ltree": ("ltree", ("a.b.c", "")),
    "cube": ("cube", ("(1,2),(3,4)", "(0.1)")),
    "isn": ("isbn", ("978-0-393-04002-9",)),
    "seg": ("seg", ("1.0 .. 2.5", "~6.5")),
    "vector": ("vector", ("[1,2.5,-3]",)),
    "intarray": ("query_int", ("1&(2|3)",)),
}
