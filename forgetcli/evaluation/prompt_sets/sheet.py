"""A prompt set's file as formats read it: as text, as a table or as TOML."""

from __future__ import annotations

from functools import cached_property

from forgetcli.evaluation.prompt_sets.document import Document
from forgetcli.evaluation.prompt_sets.source import Source
from forgetcli.evaluation.prompt_sets.table import SUFFIXES, Table, columns_of


class Sheet(Source):
    """A file that is read as its format needs it. Formats of third parties get it as well."""

    @cached_property
    def table(self) -> Table:
        """The file as a CSV with a header. Faults of the CSV are noted."""
        return Table(self)

    @cached_property
    def document(self) -> Document:
        """The file as TOML.

        Raises:
            PromptSetError: it is not TOML (``prompts.bad-toml``).
        """
        return Document(self)

    @cached_property
    def header(self) -> tuple[str, ...]:
        """The columns of a CSV, the top-level keys of a TOML file; empty for other files.

        Formats recognise their files by it.
        """
        suffix = self.path.suffix.lower()
        if suffix in SUFFIXES:
            return columns_of(self.text, suffix)
        return tuple(self.document.data) if suffix == ".toml" else ()
