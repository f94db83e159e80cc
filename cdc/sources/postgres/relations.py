"""Which captured table a relation of the stream is, with which schema, and whether its changes are wanted yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set

from cdc.decode.postgres.pgoutput import Relation
from cdc.errors import SchemaUnknown
from cdc.sources.postgres.catalog import Catalog, Table
from cdc.sources.postgres.connection import Connection
from cdc.sources.postgres.evolution import follow
from cdc.types import TableSchema


class Relations:
    """The captured tables by relation, as the stream describes them. `schemas` is the last known schema of each table."""

    def __init__(self, side: Connection, catalog: Catalog, tables: Mapping[str, Table], schemas: Mapping[str, TableSchema]) -> None:
        self._side, self._catalog = side, catalog
        self._tables = dict(tables)
        self._roots = {table.relid: table.name for table in tables.values()}
        self._names = {leaf.relid: table.name for table in tables.values() for leaf in table.leaves}
        self._names |= self._roots
        self.schemas = dict(schemas)
        self.partitioned = any(table.partitioned for table in tables.values())

    def resolver(self, wanted: Callable[[str], bool]) -> Callable[[Relation], TableSchema | None]:
        """What a Decoder asks: the schema of a relation, None where its changes are not wanted. It may raise SchemaUnknown."""

        def resolve(relation: Relation) -> TableSchema | None:
            name = self._name(relation)
            return self._schema(name, relation) if name is not None and wanted(name) else None

        return resolve

    def _name(self, relation: Relation) -> str | None:
        if relation.relid not in self._names:
            root = self._catalog.root(self._side, relation.relid)
            if root in self._roots:
                self._names[relation.relid] = self._roots[root]
            elif namesake := self._namesake(relation):
                raise SchemaUnknown("source.table_recreated", source=self._catalog.source, table=namesake)
        return self._names.get(relation.relid)

    def _namesake(self, relation: Relation) -> str | None:
        place = (relation.namespace, relation.name)
        return next((table.name for table in self._tables.values() if (table.namespace, table.relation) == place), None)

    def _schema(self, name: str, relation: Relation) -> TableSchema:
        table, known = self._tables[name], self.schemas[name]
        seen = self._catalog.schema_of(self._side, table, relation)
        if set(seen.columns) == set(known.columns) and seen.key == known.key:
            return known  # partitions may have their columns in another order
        follow(known, seen, self._catalog.find(self._side, [name]).get(name))
        self.schemas[name] = seen
        return seen

    def truncated(self, wanted: Callable[[str], bool]) -> Callable[[Set[int]], None]:
        """What a Decoder tells of the relations of a Truncate. It raises SchemaUnknown when some partitions of a table were left."""

        def check(relids: Set[int]) -> None:
            self._check_truncate(relids, wanted)

        return check

    def _check_truncate(self, relids: Set[int], wanted: Callable[[str], bool]) -> None:
        for table in self._tables.values():
            if not table.partitioned or all(self._names.get(relid) != table.name for relid in relids) or not wanted(table.name):
                continue
            now = self._catalog.find(self._side, [table.name]).get(table.name)
            if now is None or not {leaf.relid for leaf in now.leaves} <= relids:
                raise SchemaUnknown("source.truncate_partition", source=self._catalog.source, table=table.name)
