"""PostgreSQL's built-in types: their numbers, names, and the family whose rule writes their values.

The table was read from `pg_type` of PostgreSQL 13 to 18, in which it is the same; an integration test
compares it with the server at hand and fails when a type is added that nobody has considered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Family = Literal[
    "integer",  # JSON number
    "bigint",  # JSON number up to 2^53, else string
    "float",  # JSON number; NaN and the infinities are strings
    "numeric",  # JSON number up to 15 digits, else string
    "boolean",
    "text",
    "json",
    "jsonb",
    "bytea",  # base64
    "moment",  # ISO 8601
    "plain",  # text that never needs escaping in JSON
    "output",  # whatever the type's own output function writes
    "array",  # JSON array of what the element's family writes
    "array_exact",  # JSON array unless an element is a number that a double would change
    "array_literal",  # PostgreSQL's array literal as a string
]


@dataclass(frozen=True, slots=True)
class TypeInfo:
    """One type as a result column carries it; `name` is `pg_type.typname`, arrays as `int4[]`."""

    oid: int
    name: str
    family: Family


_ROWS: Final[tuple[tuple[int, str, int, Family], ...]] = (
    # oid, name, oid of its array (0: none), family
    (16, "bool", 1000, "boolean"),
    (17, "bytea", 1001, "bytea"),
    (18, "char", 1002, "text"),
    (19, "name", 1003, "text"),
    (20, "int8", 1016, "bigint"),
    (21, "int2", 1005, "integer"),
    (22, "int2vector", 1006, "output"),
    (22, "int2vector", 1006, "output"),
    (23, "int4", 1007, "integer"),
    (24, "regproc", 1008, "output"),
    (25, "text", 1009, "text"),
    (26, "oid", 1028, "integer"),
    (27, "tid", 1010, "plain"),
    (28, "xid", 1011, "integer"),
    (29, "cid", 1012, "integer"),
    (30, "oidvector", 1013, "output"),
    (30, "oidvector", 1013, "output"),
    (114, "json", 199, "json"),
    (142, "xml", 143, "text"),  # its output function leaves the declaration out, its cast to text does not
    (194, "pg_node_tree", 0, "output"),
    (600, "point", 1017, "output"),
    (601, "lseg", 1018, "output"),
    (602, "path", 1019, "output"),
    (603, "box", 1020, "output"),
    (604, "polygon", 1027, "output"),
    (628, "line", 629, "output"),
    (650, "cidr", 651, "output"),
    (700, "float4", 1021, "float"),
    (701, "float8", 1022, "float"),
    (705, "unknown", 0, "output"),
    (718, "circle", 719, "output"),
    (774, "macaddr8", 775, "plain"),
    (790, "money", 791, "output"),
    (829, "macaddr", 1040, "plain"),
    (869, "inet", 1041, "output"),
    (1033, "aclitem", 1034, "output"),
    (1042, "bpchar", 1014, "output"),
    (1043, "varchar", 1015, "text"),
    (1082, "date", 1182, "moment"),
    (1083, "time", 1183, "plain"),
    (1114, "timestamp", 1115, "moment"),
    (1184, "timestamptz", 1185, "moment"),
    (1186, "interval", 1187, "plain"),
    (1266, "timetz", 1270, "plain"),
    (1560, "bit", 1561, "plain"),
    (1562, "varbit", 1563, "plain"),
    (1700, "numeric", 1231, "numeric"),
    (1790, "refcursor", 2201, "output"),
    (2202, "regprocedure", 2207, "output"),
    (2203, "regoper", 2208, "output"),
    (2204, "regoperator", 2209, "output"),
    (2205, "regclass", 2210, "output"),
    (2206, "regtype", 2211, "output"),
    (2249, "record", 2287, "output"),
    (2275, "cstring", 1263, "output"),
    (2277, "anyarray", 0, "output"),
    (2278, "void", 0, "output"),
    (2950, "uuid", 2951, "plain"),
    (2970, "txid_snapshot", 2949, "output"),
    (3220, "pg_lsn", 3221, "plain"),
    (3361, "pg_ndistinct", 0, "output"),
    (3402, "pg_dependencies", 0, "output"),
    (3614, "tsvector", 3643, "output"),
    (3615, "tsquery", 3645, "output"),
    (3642, "gtsvector", 3644, "output"),
    (3734, "regconfig", 3735, "output"),
    (3769, "regdictionary", 3770, "output"),
    (3802, "jsonb", 3807, "jsonb"),
    (3904, "int4range", 3905, "output"),
    (3906, "numrange", 3907, "output"),
    (3908, "tsrange", 3909, "output"),
    (3910, "tstzrange", 3911, "output"),
    (3912, "daterange", 3913, "output"),
    (3926, "int8range", 3927, "output"),
    (4072, "jsonpath", 4073, "output"),
    (4089, "regnamespace", 4090, "output"),
    (4096, "regrole", 4097, "output"),
    (4191, "regcollation", 4192, "output"),
    (4451, "int4multirange", 6150, "output"),
    (4532, "nummultirange", 6151, "output"),
    (4533, "tsmultirange", 6152, "output"),
    (4534, "tstzmultirange", 6153, "output"),
    (4535, "datemultirange", 6155, "output"),
    (4536, "int8multirange", 6157, "output"),
    (4600, "pg_brin_bloom_summary", 0, "output"),
    (4601, "pg_brin_minmax_multi_summary", 0, "output"),
    (5017, "pg_mcv_list", 0, "output"),
    (5038, "pg_snapshot", 5039, "output"),
    (5069, "xid8", 271, "plain"),
)

_EXACT_ELEMENTS: Final = frozenset({"bigint", "numeric"})
_LITERAL_ELEMENTS: Final = frozenset({"json", "jsonb"})
# Pseudo-types and vectors whose arrays have no JSON form of their own; elements of a box[] stand between semicolons.
_LITERAL_NAMES: Final = frozenset({"record", "anyarray", "int2vector", "oidvector", "cstring", "box"})


def array_family(element: Family, element_name: str) -> Family:
    """Return the family of an array from the family of its elements."""
    if element in _LITERAL_ELEMENTS or element_name in _LITERAL_NAMES:
        return "array_literal"
    return "array_exact" if element in _EXACT_ELEMENTS else "array"


def _builtin_types() -> dict[int, TypeInfo]:
    types: dict[int, TypeInfo] = {}
    for oid, name, array_oid, family in _ROWS:
        types[oid] = TypeInfo(oid, name, family)
        if array_oid:
            types[array_oid] = TypeInfo(array_oid, f"{name}[]", array_family(family, name))
    return types


BUILTIN_TYPES: Final[dict[int, TypeInfo]] = _builtin_types()
