"""``.. catalog::``, the table of ``ldmkit.models()`` as it is when the pages are built."""

from docutils.parsers.rst import Directive, directives
from docutils.parsers.rst.directives.tables import CSVTable
from docutils.statemachine import StringList

import ldmkit

COLUMNS = {
    "name": "name",
    "parameters": "million parameters",
    "download_gb": "GB to fetch",
    "T4": "T4 (15 GB)",
    "24 GB": "24 GB",
    "80 GB": "80 GB",
    "licence": "licence",
    "gated": "gated",
}


def cell(name, value):
    if name in ("parameters", "download_gb"):
        return f"{value / 1e6:,.0f}" if name == "parameters" else value
    return f"``{value}``" if name == "name" else {True: "yes", False: "no"}.get(value, value)


def lines():
    """The rows as comma-separated values, the first the columns' names."""
    rows = [COLUMNS.values()]
    rows += [[cell(name, row[name]) for name in COLUMNS] for row in ldmkit.models().rows]
    return [",".join(f'"{value}"' for value in row) for row in rows]


class Catalog(Directive):
    def run(self):
        options = {"header-rows": 1, "widths": "auto", "class": ["catalog"]}
        table = CSVTable(
            "csv-table", [], options, StringList(lines(), "ldmkit.models()"), self.lineno,
            self.content_offset, self.block_text, self.state, self.state_machine,
        )  # fmt: skip
        return table.run()


def setup(app):
    directives.register_directive("catalog", Catalog)
    return {"parallel_read_safe": True}
