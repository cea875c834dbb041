"""What weights/ holds is what its manifest says, down to the last bit."""

import json
from pathlib import Path

from detector import files

WEIGHTS = Path(__file__).parents[2] / "weights"
MOST_BYTES = 30_000_000


def faults(folder: Path) -> list[str]:
    """Of model files, their cards and the manifest; a folder without any of them has none."""
    manifest = folder / "manifest.json"
    entries = json.loads(manifest.read_text(encoding="utf-8")) if manifest.is_file() else []
    found: list[str] = []
    for entry in entries:
        path = folder / entry["file"]
        if not path.is_file():
            found.append(f"{entry['file']} is not there")
            continue
        card = path.with_suffix(".md")
        is_told = card.is_file() and f"{entry['ap']:.3f}" in card.read_text(encoding="utf-8")
        facts = {
            "checksum": files.sha256(path) == entry["sha256"],
            "size": path.stat().st_size == entry["bytes"] <= MOST_BYTES,
            "card": is_told,
        }
        found += [f"{path.name}: {name}" for name, is_right in facts.items() if not is_right]
    named = {entry["file"] for entry in entries}
    return found + [f"{path.name} is in no manifest" for path in folder.glob("*.safetensors") if path.name not in named]


def test_shipped_files_are_those_of_the_manifest() -> None:
    assert faults(WEIGHTS) == []


def test_faults_are_found(tmp_path: Path) -> None:
    model = tmp_path / "m.safetensors"
    model.write_bytes(b"model")
    assert faults(tmp_path) == ["m.safetensors is in no manifest"]
    entry = {"file": model.name, "sha256": files.sha256(model), "bytes": 5, "ap": 0.61234}
    (tmp_path / "manifest.json").write_text(json.dumps([entry]))
    assert faults(tmp_path) == ["m.safetensors: card"]
    (tmp_path / "m.md").write_text("AP 0.612")
    assert faults(tmp_path) == []
    model.write_bytes(b"modem")
    assert faults(tmp_path) == ["m.safetensors: checksum"]
    model.unlink()
    assert faults(tmp_path) == ["m.safetensors is not there"]
