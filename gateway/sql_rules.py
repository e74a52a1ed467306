"""What the SQL judge goes by, as tables that a reader can check line by line. Data only.

Evidence for the lists: the measurements behind `docs/architecture.md`, on PostgreSQL 15 to 18 and the
grammar of 18. A node, field, setting or volatile function that is not listed here is refused.
"""

from __future__ import annotations

# --- Statements that are told apart: node -> (rule, what to do instead). All others are just not reads.
_WRITE = "nothing can be written here; to see what it would touch, SELECT the rows with the same conditions"
_DDL = "objects cannot be made or changed here; describe_table and the pg_catalog views show what exists"
_TRANSACTION = "leave it out: every call already runs in a READ ONLY transaction of its own"
_SESSION = "leave it out: settings are fixed per profile; SHOW and pg_settings read them"
_PREPARED = "send the query itself, with its values as `params` for $1, $2, ..."
_CODE = "write the logic as one SELECT; functions that are stable or immutable may be called in it"
_MAINTENANCE = "this is for the owner of the database; pg_stat_* and pg_class show the state of tables"
_COPY = "use SELECT for the same rows; files and programs of the server are out of reach"
_CHANNEL = "leave it out: no call outlives its transaction, so nothing could be received or held"

STATEMENTS: dict[str, tuple[str, str]] = {
    "InsertStmt": ("write", _WRITE),
    "UpdateStmt": ("write", _WRITE),
    "DeleteStmt": ("write", _WRITE),
    "MergeStmt": ("write", _WRITE),
    "TruncateStmt": ("write", _WRITE),
    "CopyStmt": ("copy", _COPY),
    "TransactionStmt": ("transaction", _TRANSACTION),
    "ConstraintsSetStmt": ("transaction", _TRANSACTION),
    "VariableSetStmt": ("session", _SESSION),
    "DiscardStmt": ("session", _SESSION),
    "LoadStmt": ("session", _SESSION),
    "PrepareStmt": ("prepared", _PREPARED),
    "ExecuteStmt": ("prepared", _PREPARED),
    "DeallocateStmt": ("prepared", _PREPARED),
    "DeclareCursorStmt": ("prepared", _PREPARED),
    "FetchStmt": ("prepared", _PREPARED),
    "ClosePortalStmt": ("prepared", _PREPARED),
    "DoStmt": ("code", _CODE),
    "CallStmt": ("code", _CODE),
    "LockStmt": ("lock", _CHANNEL),
    "ListenStmt": ("notify", _CHANNEL),
    "UnlistenStmt": ("notify", _CHANNEL),
    "NotifyStmt": ("notify", _CHANNEL),
    "VacuumStmt": ("maintenance", _MAINTENANCE),
    "ReindexStmt": ("maintenance", _MAINTENANCE),
    "ClusterStmt": ("maintenance", _MAINTENANCE),
    "CheckPointStmt": ("maintenance", _MAINTENANCE),
    "RefreshMatViewStmt": ("maintenance", _MAINTENANCE),
    "AlterSystemStmt": ("maintenance", _SESSION),
    "CreateTableAsStmt": ("write", "run its SELECT alone; the result comes back instead of being stored"),
}
OTHER_STATEMENT = ("ddl", _DDL)

# --- Parts of a SELECT that make it a write: field -> (rule, sentence, what to do instead).
REFUSED_FIELDS: dict[str, tuple[str, str, str]] = {
    "intoClause": ("into", "SELECT INTO would create a table", "leave INTO out: the rows come back as the result"),
    "lockingClause": (
        "row-lock",
        "FOR UPDATE, FOR NO KEY UPDATE, FOR SHARE and FOR KEY SHARE lock rows against writers",
        "leave the locking clause out",
    ),
}

# --- Nodes of PostgreSQL's syntax tree that a query may hold. Words, not categories, keep the diff readable.
NODES = frozenset(
    """
    SelectStmt ResTarget RangeVar RangeSubselect RangeFunction RangeTableSample RangeTableFunc RangeTableFuncCol
    JoinExpr Alias SortBy WindowDef GroupingSet WithClause CommonTableExpr CTESearchClause CTECycleClause List
    ColumnRef A_Star A_Const A_Expr A_ArrayExpr A_Indices A_Indirection BoolExpr NullTest BooleanTest CaseExpr
    CaseWhen CoalesceExpr MinMaxExpr RowExpr SubLink TypeCast TypeName CollateClause FuncCall NamedArgExpr
    GroupingFunc SQLValueFunction ParamRef String Integer Float Boolean BitString
    XmlExpr XmlSerialize ColumnDef
    JsonObjectConstructor JsonArrayConstructor JsonArrayQueryConstructor JsonObjectAgg JsonArrayAgg
    JsonAggConstructor JsonIsPredicate JsonFuncExpr JsonParseExpr JsonScalarExpr JsonSerializeExpr JsonTable
    JsonTableColumn JsonTablePathSpec JsonKeyValue JsonValueExpr JsonFormat JsonReturning JsonOutput JsonBehavior
    JsonArgument
    """.split()  # noqa: SIM905 - words in rows, as in the documentation; one per line would be 70 lines
)
# These hold names and constants only: nothing below them can act.
LEAVES = frozenset(
    ["A_Const", "A_Star", "String", "Integer", "Float", "Boolean", "BitString", "SQLValueFunction", "Alias"]
)

# Fields of those nodes. Fields that only other statements fill (constraints, raw_default, pct_type, identity,
# returningClause, ...) or only later stages of the server are left out on purpose.
FIELDS = frozenset(
    """
    absent_on_null agg_distinct agg_filter agg_order agg_star agg_within_group alias aliascolnames aliasname all arg
    args argisrow argnumber arrayBounds boolop booltesttype btype catalogname coldefexpr coldeflist colexpr
    collClause collname colname colnames coltype column_name columns constructor content context_item
    ctematerialized ctename ctequery ctes cycle_clause cycle_col_list cycle_mark_column cycle_mark_default
    cycle_mark_value cycle_path_column defresult distinctClause docexpr elements encoding endOffset expr exprs fields
    for_ordinality format format_type frameOptions fromClause func_variadic funcformat funcname functions
    groupClause groupDistinct havingClause indent indirection inh is_local is_not_null is_rowsfrom is_slice
    isNatural item_type items jointype join_using_alias key kind larg lateral lexpr lidx limitCount limitOffset
    limitOption list_end list_start location method name name_location named_args namespaces node nulltesttype
    number on_empty on_error op operName orderClause ordinality output over partitionClause passing pathspec quals
    query quotes rarg raw_expr recursive refname relation relname relpersistence repeatable result returning rexpr
    rexpr_list_end rexpr_list_start row_format rowexpr schemaname search_breadth_first search_clause
    search_col_list search_seq_column setof sortClause sortby_dir sortby_nulls startOffset string subLinkType
    subquery subselect targetList testexpr typeName typemod typmod typmods names uidx unique unique_keys useOp
    usingClause val value valuesLists whereClause windowClause withClause wrapper xmloption
    """.split()  # noqa: SIM905 - as above
)

EXPLAIN_OPTIONS = frozenset(
    [
        "analyze",
        "verbose",
        "costs",
        "buffers",
        "timing",
        "summary",
        "format",
        "settings",
        "wal",
        "generic_plan",
        "memory",
        "serialize",
    ]
)

# An A_Expr whose `name` is not the operator that runs.
KIND_OPERATORS: dict[str, tuple[str, ...]] = {
    "AEXPR_BETWEEN": (">=", "<="),
    "AEXPR_NOT_BETWEEN": ("<", ">"),
    "AEXPR_BETWEEN_SYM": (">=", "<="),
    "AEXPR_NOT_BETWEEN_SYM": ("<", ">"),
}
# Syntax of PostgreSQL 16 and 17 that older servers read as a call of a function of this name, which anybody
# may have created there.
NODE_FUNCTIONS: dict[str, str] = {
    "JsonObjectConstructor": "json_object",
    "JsonArrayConstructor": "json_array",
    "JsonArrayQueryConstructor": "json_array",
    "JsonObjectAgg": "json_objectagg",
    "JsonArrayAgg": "json_arrayagg",
    "JsonParseExpr": "json",
    "JsonScalarExpr": "json_scalar",
    "JsonSerializeExpr": "json_serialize",
    "JsonTable": "json_table",
    "JSON_EXISTS_OP": "json_exists",
    "JSON_QUERY_OP": "json_query",
    "JSON_VALUE_OP": "json_value",
}

# --- Built-in functions that are VOLATILE and yet only read: name -> why it is wanted.
_RANDOM = "random values; keeps no state that another caller could see"
_CLOCK = "the clock"
_SIZE = "size on disk"
_REPLICATION = "where a primary or replica stands"
_LOCKS = "who waits for whom"
_TREE = "shape of a partitioned table"
_COLLATION = "whether a collation has changed"
_XACT = "state of a past transaction"
_SEQUENCE = "reads a sequence without moving it"
_STATISTICS = "counters, as its pg_stat view shows them"
VOLATILE_ALLOWED: dict[str, str] = {
    "clock_timestamp": _CLOCK,
    "timeofday": _CLOCK,
    "random": _RANDOM,
    "random_normal": _RANDOM,  # 16
    "array_sample": _RANDOM,  # 16
    "array_shuffle": _RANDOM,  # 16
    "gen_random_uuid": _RANDOM,
    "uuidv4": _RANDOM,  # 18
    "uuidv7": _RANDOM,  # 18
    "current_query": "the caller's own text",
    "pg_relation_size": _SIZE,
    "pg_table_size": _SIZE,
    "pg_indexes_size": _SIZE,
    "pg_total_relation_size": _SIZE,
    "pg_database_size": _SIZE,
    "pg_tablespace_size": _SIZE,
    "pg_is_in_recovery": _REPLICATION,
    "pg_current_wal_lsn": _REPLICATION,
    "pg_current_wal_insert_lsn": _REPLICATION,
    "pg_current_wal_flush_lsn": _REPLICATION,
    "pg_last_wal_receive_lsn": _REPLICATION,
    "pg_last_wal_replay_lsn": _REPLICATION,
    "pg_last_xact_replay_timestamp": _REPLICATION,
    "pg_is_wal_replay_paused": _REPLICATION,
    "pg_get_wal_replay_pause_state": _REPLICATION,
    "pg_blocking_pids": _LOCKS,
    "pg_safe_snapshot_blocking_pids": _LOCKS,
    "pg_lock_status": _LOCKS,
    "pg_prepared_xact": _LOCKS,
    "pg_partition_tree": _TREE,
    "pg_partition_ancestors": _TREE,
    "pg_collation_actual_version": _COLLATION,
    "pg_database_collation_actual_version": _COLLATION,
    "pg_xact_status": _XACT,
    "txid_status": _XACT,
    "pg_xact_commit_timestamp": _XACT,
    "pg_xact_commit_timestamp_origin": _XACT,
    "pg_last_committed_xact": _XACT,
    "pg_sequence_last_value": _SEQUENCE,
    "pg_get_sequence_data": _SEQUENCE,  # 18; needs SELECT on it
    "currval": _SEQUENCE,
    "lastval": _SEQUENCE,
    "pg_jit_available": "whether the server can compile queries",
    "pg_notification_queue_usage": "how full the queue is; takes nothing from it",
    "pg_stat_have_stats": _STATISTICS,
    "pg_stat_get_recovery_prefetch": _STATISTICS,
    "pg_stat_get_io": _STATISTICS,  # 16
    "pg_stat_get_backend_io": _STATISTICS,  # 18
    "pg_stat_get_backend_wal": _STATISTICS,  # 18
    "pg_get_wait_events": "descriptions of wait events",  # 17
}
# Decided against, new in 16 to 18, volatile and therefore refused by not standing above:
# pg_log_standby_snapshot (writes WAL), binary_upgrade_* (catalogue surgery), pg_sync_replication_slots,
# pg_clear_*_stats, pg_restore_*_stats, pg_stat_reset_backend_stats (write), pg_available_wal_summaries,
# pg_wal_summary_contents, pg_get_wal_summarizer_state, pg_ls_summariesdir (files), pg_get_loaded_modules (paths of
# libraries), pg_get_shmem_allocations_numa (touches all of shared memory), pg_get_aios (the server's inside),
# pg_stat_get_xact_* (of this transaction, which is always empty).

# (extension, function): volatile functions of extensions that only make up values or read counters.
EXTENSION_ALLOWED: dict[tuple[str, str], str] = {
    ("pgcrypto", "gen_random_uuid"): _RANDOM,
    ("pgcrypto", "gen_random_bytes"): _RANDOM,
    ("pgcrypto", "gen_salt"): _RANDOM,
    ("uuid-ossp", "uuid_generate_v1"): _RANDOM,
    ("uuid-ossp", "uuid_generate_v1mc"): _RANDOM,
    ("uuid-ossp", "uuid_generate_v4"): _RANDOM,
    ("tablefunc", "normal_rand"): _RANDOM,
    ("postgis", "st_generatepoints"): _RANDOM,
    ("pg_stat_statements", "pg_stat_statements"): _STATISTICS,
    ("pg_stat_statements", "pg_stat_statements_info"): _STATISTICS,
}

# --- Built-ins that call themselves stable or immutable, or have such an overload, and are refused by name.
_DUMP = "it dumps whole relations, past every rule about single relations"
_TEXT = "it runs SQL that stands in a string, where nobody can judge it"
_XID = "it assigns a transaction id, which is a write"
_HOST = "it shows how the server's machine is laid out"
_SELECT_IT = "SELECT the columns instead; xmlforest, xmlagg and table rows give the same as XML"
_INLINE = "write that SQL as a sub-select of this statement"
_SNAPSHOT_XID = "pg_current_xact_id_if_assigned() and pg_current_snapshot() read without assigning"
DENIED_BUILTINS: dict[str, tuple[str, str]] = {
    "table_to_xml": (_DUMP, _SELECT_IT),
    "table_to_xmlschema": (_DUMP, _SELECT_IT),
    "table_to_xml_and_xmlschema": (_DUMP, _SELECT_IT),
    "schema_to_xml": (_DUMP, _SELECT_IT),
    "schema_to_xmlschema": (_DUMP, _SELECT_IT),
    "schema_to_xml_and_xmlschema": (_DUMP, _SELECT_IT),
    "database_to_xml": (_DUMP, _SELECT_IT),
    "database_to_xmlschema": (_DUMP, _SELECT_IT),
    "database_to_xml_and_xmlschema": (_DUMP, _SELECT_IT),
    "ts_rewrite": (_TEXT, "ts_rewrite(query, target, substitute) takes the pair itself instead of SQL"),
    "txid_current": (_XID, _SNAPSHOT_XID),
    "pg_current_xact_id": (_XID, _SNAPSHOT_XID),
    "pg_export_snapshot": ("it leaves a file on the server until the transaction ends", "leave it out"),
    "pg_relation_filepath": (_HOST, "pg_relation_filenode gives the number without the path"),
    "pg_config": (_HOST, "version() and SHOW server_version tell the version"),
    "pg_get_functiondef": (
        "source code of functions may hold secrets",
        "pg_get_function_arguments and pg_get_function_result give the signature",
    ),
}
# Denied built-ins of which one overload runs nothing: name -> how many arguments that one takes.
CALM_OVERLOADS: dict[str, int] = {"ts_rewrite": 3}
# Of extensions, in whatever schema they were installed.
DENIED_ANYWHERE: dict[str, tuple[str, str]] = {
    "crosstab": (_TEXT, "write the pivot with count(*) FILTER (WHERE ...)"),
    "crosstab2": (_TEXT, "write the pivot with count(*) FILTER (WHERE ...)"),
    "crosstab3": (_TEXT, "write the pivot with count(*) FILTER (WHERE ...)"),
    "crosstab4": (_TEXT, "write the pivot with count(*) FILTER (WHERE ...)"),
    "connectby": (_TEXT, "write it as WITH RECURSIVE"),
    "xpath_table": (_TEXT, "use XMLTABLE"),
    "xslt_process": ("a style sheet may read files and the network", "use xpath or XMLTABLE"),
}
SETTING_FUNCTION = "current_setting"

# What to do instead of a refused function, by the start of its name; the first match counts.
FUNCTION_HINTS: tuple[tuple[str, str], ...] = (
    ("pg_sleep", "leave it out: a read does not need to wait"),
    ("set_config", _SESSION),
    ("setseed", "leave it out; random() works without a seed"),
    ("nextval", "read the sequence with pg_sequence_last_value('name') or SELECT last_value FROM name"),
    ("setval", "read the sequence with pg_sequence_last_value('name') or SELECT last_value FROM name"),
    ("pg_read_", "files of the server are out of reach; read tables"),
    ("pg_ls_", "files of the server are out of reach; read tables"),
    ("pg_stat_file", "files of the server are out of reach; read tables"),
    ("pg_stat_reset", "the counters may be read (pg_stat_*) but not reset"),
    ("pg_terminate_backend", "pg_stat_activity shows the sessions; ending one is for the operator"),
    ("pg_cancel_backend", "pg_stat_activity shows the sessions; ending one is for the operator"),
    ("pg_advisory_", "leave it out; pg_locks shows the locks that are held"),
    ("pg_try_advisory_", "leave it out; pg_locks shows the locks that are held"),
    ("pg_notify", _CHANNEL),
    ("lo_", "large objects cannot be read or made here; bytea columns can be read"),
    ("query_to_xml", _INLINE),
    ("cursor_to_xml", _INLINE),
    ("ts_stat", _INLINE),
    ("dblink", "name the other database as `profile`; one call can ask several profiles"),
    ("pg_logical_", "pg_replication_slots shows the slots"),
    ("pg_replication_", "pg_replication_slots and pg_stat_replication show the state"),
)
ASK_THE_OPERATOR = "leave it out, or ask the operator to add it to the profile's allow_functions"

# --- Relations that hold secrets: name -> what they hold. Looked up without a schema, in pg_catalog and in
# information_schema.
_HASHES = "password hashes"
_MAPPINGS = "passwords for other servers"
_FILES = "the server's own configuration files"
_SAMPLES = "values of columns, whoever may read those"
_INSIDE = "the memory of the server process"
DENIED_RELATIONS: dict[str, tuple[str, str]] = {
    "pg_authid": (_HASHES, "use pg_roles"),
    "pg_shadow": (_HASHES, "use pg_roles or pg_user"),
    "pg_user_mapping": (_MAPPINGS, "use information_schema.user_mappings"),
    "pg_user_mappings": (_MAPPINGS, "use information_schema.user_mappings"),
    "_pg_user_mappings": (_MAPPINGS, "use information_schema.user_mappings"),
    "user_mapping_options": (_MAPPINGS, "use information_schema.user_mappings"),
    "pg_subscription": ("connection strings with passwords", "use pg_stat_subscription"),
    "pg_hba_file_rules": (_FILES, "it is for the operator of the server"),
    "pg_file_settings": (_FILES, "use pg_settings"),
    "pg_ident_file_mappings": (_FILES, "it is for the operator of the server"),
    "pg_largeobject": ("large objects, whoever owns them", "use pg_largeobject_metadata to list them"),
    "pg_statistic": (_SAMPLES, "use pg_stats"),
    "pg_statistic_ext_data": (_SAMPLES, "use pg_stats_ext"),
    "pg_db_role_setting": ("settings of roles, where applications keep secrets", "use pg_settings"),
    "pg_backend_memory_contexts": (_INSIDE, "it is for the operator of the server"),
    "pg_shmem_allocations": (_INSIDE, "it is for the operator of the server"),
    "pg_shmem_allocations_numa": (_INSIDE, "it is for the operator of the server"),  # 18
    "pg_config": ("how the server's machine is laid out", "version() and SHOW server_version tell the version"),
}
DENIED_SCHEMAS: dict[str, str] = {"pg_toast": "the stored halves of long values, whoever may read those"}
SYSTEM_SCHEMAS = ("pg_catalog", "information_schema")

# --- Settings. All of PostgreSQL 15 to 18 (`builtin_functions.json`) may be shown except these. Names with a dot
# belong to extensions and applications, which keep tokens and tenants there, and are refused as a whole.
# SHOW ALL stays: it hides names with a dot that no extension defines, and tells nothing that the view
# pg_settings does not; values that only superusers may see appear in both for superusers alone.
_COMMAND = "commands and connection strings may hold passwords"
_PATH = "a path on the server's machine"
REFUSED_SETTINGS: dict[str, str] = {
    "primary_conninfo": _COMMAND,
    "archive_command": _COMMAND,
    "archive_cleanup_command": _COMMAND,
    "restore_command": _COMMAND,
    "recovery_end_command": _COMMAND,
    "ssl_passphrase_command": _COMMAND,
    "config_file": _PATH,
    "hba_file": _PATH,
    "ident_file": _PATH,
    "data_directory": _PATH,
    "external_pid_file": _PATH,
    "promote_trigger_file": _PATH,
    "krb_server_keyfile": _PATH,
    "ssl_ca_file": _PATH,
    "ssl_cert_file": _PATH,
    "ssl_crl_dir": _PATH,
    "ssl_crl_file": _PATH,
    "ssl_dh_params_file": _PATH,
    "ssl_key_file": _PATH,
    "log_directory": _PATH,
    "log_filename": _PATH,
    "dynamic_library_path": _PATH,
    "extension_control_path": _PATH,
    "extension_destdir": _PATH,
    "unix_socket_directories": _PATH,
    "stats_temp_directory": _PATH,
}
# Shown by SHOW, but not rows of pg_settings; or settings of 13 and 14 alone.
MORE_SETTINGS = frozenset(
    [
        "all",
        "role",
        "session_authorization",
        "is_superuser",
        "operator_precedence_warning",
        "vacuum_cleanup_index_scale_factor",
    ]
)
