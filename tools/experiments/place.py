"""Where a page has a table that a script writes."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Between `<!-- MARK: begin -->` and `<!-- MARK: end -->`."""

    page: Path
    mark: str

    def read(self) -> str:
        """What stands there."""
        return self._parted()[1].strip("\n")

    def write(self, table: str) -> None:
        before, _, after = self._parted()
        self.page.write_text(f"{before}\n{table}\n{after}", encoding="utf-8")

    def _parted(self) -> tuple[str, str, str]:
        """The page up to the table, the table, and the rest."""
        begin, end = f"<!-- {self.mark}: begin -->", f"<!-- {self.mark}: end -->"
        before, rest = self.page.read_text(encoding="utf-8").split(begin)
        shown, after = rest.split(end)
        return before + begin, shown, end + after
