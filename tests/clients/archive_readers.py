"""Reads an archive with DuckDB or pyarrow and compares it with what was sent.

Usage: archive_readers.py duckdb|pyarrow FOLDER EXPECTED.json
"""

import datetime
import json
import sys

UTC = datetime.timezone.utc
CLOCK_SET_MS = 1_704_067_200_000
TYPES = {
    "t": "double",
    "line.id": "int64",
    "line.name": "string",
    "ok": "bool",
    "_node": "string",
}


def same(what, found, wanted):
    if found != wanted:
        sys.exit(f"{what}: found {found!r}, wanted {wanted!r}")


def day_of(ms):
    now = datetime.datetime.now(UTC)
    moment = datetime.datetime.fromtimestamp(ms / 1000, UTC) if ms >= CLOCK_SET_MS else now
    return moment.date().isoformat()


def compare(rows, expected):
    """Every row, cell by cell."""
    wanted = {(row["node"], row["sequence"]): row for row in expected["rows"]}
    same("rows", len(rows), len(wanted))
    for row in rows:
        key = (row["node"], row["sequence"])
        want = wanted.pop(key)
        for name in ["value", *TYPES]:
            same(f"{name} of {key}", row[name], want.get(name))
        found = None if row["bytes"] is None else list(row["bytes"])
        same(f"bytes of {key}", found, want.get("bytes"))
        same(f"time of {key}", row["time_ms"], want["time_ms"])
        same(f"clock of {key}", row["clock_set"], want["time_ms"] >= CLOCK_SET_MS)
        same(f"day of {key}", str(row["day"]), day_of(want["time_ms"]))
        same(f"epoch of {key}", row["epoch"], expected["epoch"])
    same("rows that are missing", list(wanted), [])


def with_duckdb(folder, expected):
    import duckdb

    db = duckdb.connect()
    files = f"read_parquet('{folder}/**/*.parquet', union_by_name=true, hive_partitioning=true)"
    answer = db.sql(f"select * replace (epoch_ms(time_ms) as time_ms) from {files}")
    rows = [dict(zip(answer.columns, row)) for row in answer.fetchall()]
    compare(rows, expected)
    names = {"double": "DOUBLE", "int64": "BIGINT", "string": "VARCHAR", "bool": "BOOLEAN"}
    columns = db.sql(f"select * from {files} limit 0")
    found = {name: str(kind) for name, kind in zip(columns.columns, columns.types)}
    for name, kind in TYPES.items():
        same(f"type of {name}", found[name], names[kind])
    same("type of time_ms", found["time_ms"], "TIMESTAMP WITH TIME ZONE")
    same("type of value", found["value"], "VARCHAR")
    mine = [row for row in expected["rows"] if row["node"] == "n1"]
    total = db.sql(f"select sum(t), count(t) from {files} where stream = 'climate' and node = 'n1'")
    numbers = [row["t"] for row in mine if "t" in row]
    same("sum and count of t", total.fetchall()[0], (sum(numbers), len(numbers)))
    # A question about one day opens that day's files only.
    opened = f"select distinct filename from read_parquet('{folder}/**/*.parquet', union_by_name=true, hive_partitioning=true, filename=true) where day = '2026-03-02' and node = 'n1'"
    same("folders", {name.split("day=")[1][:10] for (name,) in db.sql(opened).fetchall()}, {"2026-03-02"})
    plan = db.sql(f"explain analyze select sum(t) from {files} where day = '2026-03-01' and node = 'n2'").fetchall()
    all_files = len(db.sql(f"select distinct filename from read_parquet('{folder}/**/*.parquet', filename=true)").fetchall())
    text = "".join(part for row in plan for part in row)
    if "Total Files Read: 1" not in text and f"1/{all_files}" not in text:
        sys.exit(f"no partition was pruned:\n{text}")


def with_pyarrow(folder, expected):
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.dataset as ds

    found = ds.dataset(folder, format="parquet", partitioning="hive")
    schemas = [part.physical_schema for part in found.get_fragments()]
    schema = pa.unify_schemas([found.schema, *schemas], promote_options="permissive")
    archive = ds.dataset(folder, schema=schema, format="parquet", partitioning="hive")
    same("rows", archive.count_rows(), len(expected["rows"]))
    rows = archive.to_table().to_pylist()
    for row in rows:
        row["time_ms"] = round(row["time_ms"].timestamp() * 1000)
    compare(rows, expected)
    for name, kind in TYPES.items():
        same(f"type of {name}", str(schema.field(name).type), kind)
    same("type of time_ms", schema.field("time_ms").type, pa.timestamp("ms", tz="UTC"))
    mine = archive.to_table(columns=["t"], filter=pc.field("node") == "n1")["t"]
    numbers = [row["t"] for row in expected["rows"] if row["node"] == "n1" and "t" in row]
    same("sum of t", pc.sum(mine).as_py(), float(sum(numbers)))
    pruned = list(archive.get_fragments(filter=(pc.field("node") == "n2") & (pc.field("day") == "2026-03-01")))
    same("files of n2 and a day", len(pruned), 1)
    # Row groups tell their bounds: a question outside of them reads none.
    groups = pruned[0].split_by_row_group(filter=pc.field("sequence") > 1_000_000)
    same("row groups outside of the bounds", len(groups), 0)


if __name__ == "__main__":
    reader, folder, expected = sys.argv[1:]
    with open(expected) as file:
        expected = json.load(file)
    {"duckdb": with_duckdb, "pyarrow": with_pyarrow}[reader](folder, expected)
    print(f"{reader}: passed")
