"""The systems that an evaluation compares: one row of the table each.

    hr                      the original EdgeFace on HR faces: the upper bound
    direct_feed             the original EdgeFace on bicubic faces: what a DSR must beat
    direct_feed_finetuned   the control, an EdgeFace fine-tuned on bicubic faces: what a DSR with a fine-tuned EdgeFace must beat
    dsr                     the original EdgeFace on restored faces
    dsr_ensemble            the same, restored by the mean of several DSRs that differ in their seed
    dsr_finetuned           the fine-tuned EdgeFace on restored faces
    cycle_1, …              both networks after each cycle
    cycle_1_guided, …       the original EdgeFace on the faces of such a pair, led on until it sees in them whom the pair saw
                            (``guide_steps``; also ``dsr_finetuned_guided``): what a pair knows, for any recogniser to read

HR faces, such as a gallery's, are embedded by a row's own EdgeFace or, with ``hr_edgeface`` "original", by the untouched one, in
whose space the others are taught: asymmetric testing (Budnik and Avrithis 2020, arXiv 2006.16331).
With test-time augmentation (TTA: the mirrored VLR face is restored and embedded too) each has a twin, ``<row>_tta``.
A *judge*, any recogniser that took no part in training (``dsrkit.evaluation.judge``), may score the same faces: what it gains
from restoring, the DSR cannot have learnt from it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import nn

from dsrkit.data.faces import FaceSet
from dsrkit.evaluation.headline import CONTROL, GUIDED, TTA
from dsrkit.evaluation.judge import AnyRecognizer, CalledRecognizer, embeddings_of, open_judge
from dsrkit.evaluation.report import Row
from dsrkit.models.checkpoint import read_about
from dsrkit.models.dsr import load_dsr
from dsrkit.models.edgeface import EdgeFace, edgeface_file, load_edgeface
from dsrkit.models.guided import Guided
from dsrkit.params import Evaluation
from dsrkit.recognition import restore
from dsrkit.runs import Run, file_hash, resolve

Restorer = nn.Module | Literal["hr", "bicubic"]
Name = TypeVar("Name", bound=Hashable)
Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class System:
    """One row: what its recogniser is shown, and who recognises. ``files`` are what it was read from, by role.

    ``restorer`` is a DSR, "bicubic", or "hr" for HR faces; ``recognizer`` is "run" or "judge". ``hr_edgeface`` embeds HR faces;
    None is ``edgeface`` itself.
    """

    row: str
    edgeface: AnyRecognizer  # an EdgeFace; a judge may be another recogniser
    restorer: Restorer
    files: dict[str, Path]
    tta: bool = False
    recognizer: str = "run"
    hr_edgeface: AnyRecognizer | None = None

    def at_hr(self) -> System:
        """The system as it looks at HR faces, a gallery's for instance."""
        file = self.files.get("hr_edgeface", self.files["edgeface"])
        return replace(self, restorer="hr", edgeface=self.hr_edgeface or self.edgeface, files={"edgeface": file})

    def restored(self, faces: FaceSet) -> UInt8[np.ndarray, "n 112 112 3"]:
        """What this system shows its recogniser for each VLR face."""
        return shown_by(self.restorer, faces)

    def embedded(self, faces: FaceSet) -> Float[np.ndarray, "n d"]:
        """Embeddings of what it shows; with TTA also of what it shows for the mirrored faces."""
        return embeddings_of(self.restored(faces), self.edgeface, self.restored(faces.mirrored) if self.tta else None)


def shown_by(restorer: Restorer, faces: FaceSet) -> UInt8[np.ndarray, "n 112 112 3"]:
    """The faces as a recogniser sees them: HR ones, bicubic ones, or those that a DSR restored."""
    if restorer == "hr":
        return faces.hr
    return restore(faces.vlr, restorer if isinstance(restorer, nn.Module) else None)


def open_systems(run: Run, params: Evaluation, device: torch.device) -> list[System]:
    """Every system of which the run (or the one that ``of_run`` names) has the checkpoints, and with ``tta`` each one's twin.

    Raises FileNotFoundError when the run has no DSR yet, ValueError for an EdgeFace that belongs to another DSR.
    """
    original = edgeface_file(params.edgeface)
    rows = rows_on_disk(replace(run, name=params.of_run) if params.of_run else run, original)
    edgefaces = shared({path: load_edgeface(path, device) for path in dict.fromkeys(edgeface for _, _, edgeface in rows)})
    different = dict.fromkeys(dsrs for _, dsrs, _ in rows if dsrs)
    restorers = shared({dsrs: load_dsr(dsrs[0] if len(dsrs) == 1 else list(dsrs), device) for dsrs in different})
    systems = []
    for row, dsrs, edgeface in rows:
        files = {"dsr" if number == 1 else f"dsr_member{number}": path for number, path in enumerate(dsrs, 1)}
        restorer: Restorer = restorers[dsrs] if dsrs else "hr" if row == "hr" else "bicubic"
        files |= {"edgeface": edgeface}
        by = edgeface_of_hr(params.hr_edgeface, edgeface, original)
        files |= {} if by == edgeface else {"hr_edgeface": by}
        systems.append(System(row, edgefaces[edgeface], restorer, files, hr_edgeface=edgefaces[by]))
    if params.guide_steps:
        systems = with_guided(systems, edgefaces[original], original, params.guide_steps)
    return with_twins(systems) if params.tta else systems


def with_guided(systems: Sequence[System], original: EdgeFace, path: Path, steps: int) -> list[System]:
    """Each system, and after one of a DSR and a fine-tuned EdgeFace the original one, read from ``path``, on its guided faces,
    which begin at the mean of that DSR's drawings and those of the row "dsr".

    A cycle whose step was refused carries the original (``shared``) under a name of its own: it has nothing to tell it.
    """
    found, first = [], next(system for system in systems if system.row == "dsr")
    for system in systems:
        found.append(system)
        edgeface, restorer = system.edgeface, system.restorer
        if isinstance(restorer, nn.Module) and isinstance(edgeface, EdgeFace) and edgeface is not original:
            files = dsr_files(system) | {"dsr_guide": system.files["edgeface"], "edgeface": path}
            others: list[nn.Module] = []
            if isinstance(first.restorer, nn.Module) and first.restorer is not restorer:
                others, files = [first.restorer], files | {"dsr_other": first.files["dsr"]}
            guided = Guided(restorer, edgeface, original, steps, others)
            found.append(System(system.row + GUIDED, original, guided, files, hr_edgeface=original))
    return found


def shared(networks: Mapping[Name, Network]) -> dict[Name, Network]:
    """The same networks, the first for all that hold the same numbers.

    A cycle whose step was refused carries copies of the networks before it: they need not restore and embed once more.
    """
    found: dict[Name, Network] = {}
    for name, network in networks.items():
        found[name] = next((known for known in found.values() if same_weights(known, network)), network)
    return found


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    """Whether two networks hold the same numbers, wherever they were read from."""
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def rows_on_disk(run: Run, original: Path) -> list[tuple[str, tuple[Path, ...], Path]]:
    """Row, files of its DSR (none: no DSR; several: an ensemble) and EdgeFace, checked for belonging together."""
    resolve("", run.dsr, "DSR (run 02_dsr_training first)")
    rows: list[tuple[str, tuple[Path, ...], Path]] = [("hr", (), original), ("direct_feed", (), original)]
    if run.edgeface_direct.exists():
        check_control(run.edgeface_direct)
        rows.append((CONTROL, (), run.edgeface_direct))
    rows.append(("dsr", (run.dsr,), original))
    members = ensemble_members(run)
    if len(members) > 1:
        rows.append(("dsr_ensemble", members, original))
    cycles = [(f"cycle_{number}", *files) for number, files in enumerate(run.cycles(), 1)]
    for row, dsr, edgeface in [("dsr_finetuned", run.dsr, run.edgeface), *cycles]:
        if edgeface.exists():
            check_lineage(dsr, edgeface)
            rows.append((row, (dsr,), edgeface))
    return rows


def edgeface_of_hr(choice: Literal["own", "original"], own: Path, original: Path) -> Path:
    """Which EdgeFace embeds HR faces beside one that embeds VLR faces."""
    return original if choice == "original" else own


def ensemble_members(run: Run) -> tuple[Path, ...]:
    """``dsr.pt``, ``dsr_member2.pt``, … as far as they go without a gap."""
    return (run.dsr, *run.dsr_members(2))


def with_twins(systems: Sequence[System]) -> list[System]:
    """Each system, and after it the same with test-time augmentation: the mirrored face's embedding is added."""
    return [twin for system in systems for twin in (system, replace(system, row=system.row + TTA, tta=True))]


def _inputs(path: Path) -> dict[str, Any]:
    about = read_about(path)
    return about.get("carried_over", about.get("provenance", {})).get("inputs", {})


def check_lineage(dsr: Path, edgeface: Path) -> None:
    """Raises ValueError when ``edgeface`` was made for another DSR than the run's present one.

    A fine-tuned EdgeFace names the DSR whose faces it saw; both networks of a cycle name the same parents, also one that the
    cycle left as it was.
    """
    parents = [_inputs(path).get("dsr", {}).get("sha256") for path in (dsr, edgeface)]
    expected = file_hash(dsr) if parents[0] is None else parents[0]
    if parents[1] != expected:
        raise ValueError(
            f"{edgeface}: expected the EdgeFace that belongs to {dsr.name}, got one made for another DSR. "
            "Run 03_edgeface_finetune and 04_cyclic_cycle again, or remove the files of the earlier training."
        )


def check_control(edgeface: Path) -> None:
    """Raises ValueError when the control saw a DSR's faces: then it controls nothing."""
    if dsr := _inputs(edgeface).get("dsr"):
        raise ValueError(
            f"{edgeface}: expected a control, an EdgeFace fine-tuned on bicubic faces without a DSR, got one that names "
            f"{dsr.get('file', 'a DSR')} among its inputs. Run 03_edgeface_finetune again, or remove the file."
        )


def distinct_restorers(systems: Sequence[System]) -> list[System]:
    """The first system of each restorer, HR and bicubic among them, without TTA: whose faces differ."""
    first: dict[Restorer, System] = {}
    for system in systems:
        if not system.tta:
            first.setdefault(system.restorer, system)
    return list(first.values())


def judge_systems(params: Evaluation, systems: Sequence[System], device: torch.device) -> list[System]:
    """The judge on the faces of each distinct restorer, named as the first row that shows them, and with ``tta`` each one's
    twin; none without a judge.

    Raises ValueError when it is a recogniser of the run itself, and as ``judge.open_judge``.
    """
    if not params.judge:
        return []
    judge, path = open_judge(params.judge, device)
    digest = file_hash(path)
    for known in {system.files["edgeface"] for system in systems}:
        if file_hash(known) == digest:
            raise ValueError(
                f"judge: expected an EdgeFace that took no part in training, got {path}, the same file (SHA-256 {digest[:12]}…) "
                f"as the run's own {known.name}. Give another one, such as EdgeFace-xs beside EdgeFace-xxs, or none."
            )
    judges = [
        replace(system, edgeface=judge, files=dsr_files(system) | {"edgeface": path}, recognizer="judge", hr_edgeface=None)
        for system in distinct_restorers(systems)
    ]
    return with_twins(judges) if params.tta else judges


def dsr_files(system: System) -> dict[str, Path]:
    return {role: path for role, path in system.files.items() if role.startswith("dsr")}


def judge_about(judges: Sequence[System], rows: Sequence[Row]) -> dict[str, Any] | None:
    """What ``metrics.json`` says of the judge: its file (or function), its SHA-256 and its rows; None without a judge."""
    if not judges:
        return None
    path, judge = judges[0].files["edgeface"], judges[0].edgeface
    name = judge.name if isinstance(judge, CalledRecognizer) else path.name
    return {"recognizer": name, "sha256": file_hash(path), "rows": list(rows)}
