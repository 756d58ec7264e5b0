"""Reads W&B's own file of a run, without W&B's service: a LevelDB log (32 KB blocks) of protobuf records."""

import json
import struct
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record


def records(path: Path) -> list[Record]:
    """All whole records of a `run-<id>.wandb`; stops where the file was cut short."""
    data, position, found, part = path.read_bytes(), 7, [], b""  # the file begins with 7 bytes of W&B's own
    while position + 7 <= len(data):
        if (left := 32768 - position % 32768) < 7:  # a header never straddles two blocks
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)  # checksum, bytes, 1 whole 2 first 3 middle 4 last
        part = data[position + 7 : position + 7 + length] if kind in (1, 2) else part + data[position + 7 :][:length]
        position += 7 + length
        if kind in (1, 4) and position <= len(data):
            found.append(Record.FromString(part))
    return found


def find(folder: Path) -> list[Path]:
    """The files of all runs below `folder`, oldest first."""
    return sorted(folder.glob("wandb/*run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime_ns)


class WandbFile:
    """What one run's file says: config, history (one dict a row), id, project, tags and exit code (None: not ended)."""

    def __init__(self, path: Path) -> None:
        self.config: dict[str, Any] = {}
        self.history: list[dict[str, Any]] = []
        self.exit_code: int | None = None
        self.records = records(path)
        for record in self.records:
            kind = record.WhichOneof("record_type")
            if kind == "run":
                self.id, self.project, self.name = record.run.run_id, record.run.project, record.run.display_name
                self.tags, self.group = list(record.run.tags), record.run.run_group
                updates = record.run.config.update
            else:
                updates = record.config.update
            for item in updates:
                self.config[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
            if kind == "history":
                row = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item}
                self.history.append(row)
            elif kind == "exit":
                self.exit_code = record.exit.exit_code

    def metric(self, name: str) -> list[Any]:
        """The values of one metric in the order in which they were logged."""
        return [row[name] for row in self.history if name in row]
