"""A plate from its table to profiles of wells, field by field, to be stopped and gone on with."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from napari_microdl import __version__
from napari_microdl.concepts.dictionary import ConceptDictionary, DictionarySpec
from napari_microdl.concepts.export import write_table
from napari_microdl.concepts.wells import well_names
from napari_microdl.core.config import PipelineConfig, PlateKind, write_config
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.files import write_text
from napari_microdl.core.task import current_task
from napari_microdl.core.text import first_notes
from napari_microdl.estimators.plates import fit_references, kind_for, require_controls
from napari_microdl.fields.field import Field, FieldInfo
from napari_microdl.fields.pixel_size import common_pixel_size, pixel_size_note
from napari_microdl.models.base import ModelSpec
from napari_microdl.pipeline.files import DICTIONARY, SETTINGS
from napari_microdl.pipeline.inputs import (
    channel_note,
    check_controls,
    check_empty,
    check_fields,
    config_of,
    load_model_of,
    named_channels,
    tile_plan,
)
from napari_microdl.pipeline.plate.engine import Engine, Place, ThisProcess, Work
from napari_microdl.pipeline.plate.folder import (
    FIELDS,
    PLACES,
    SUMMARY,
    Log,
    Manifest,
    sole_driver,
)
from napari_microdl.pipeline.plate.learn import (
    Known,
    fit_dictionary,
    fit_places,
    fit_scales,
    fit_whitening_of,
    plate_moments,
    write_places,
)
from napari_microdl.pipeline.plate.listing import Listing, PlateField, Receipt, in_order
from napari_microdl.pipeline.plate.profiles import Coded, Gathered, gather
from napari_microdl.pipeline.plate.sampling import draw_fields, hold_back
from napari_microdl.pipeline.plate.summary import counts_of
from napari_microdl.pipeline.plate.work import (
    VECTORS,
    Job,
    apply_dictionary,
    encode_vectors,
    let_go,
    model_of,
    read_vectors,
    sum_distances,
    sum_places,
)
from napari_microdl.pipeline.report import package_versions
from napari_microdl.tokens.positions import PositionComponent

MOST_SAMPLES = 100_000
MOST_POSITION_FIELDS = 128
# Fields that are tried for one that opens.
_TRIED = 20
# What a run was begun with that decides the samples of a field.
_OF_SAMPLES = ("version", "settings", "channels", "weights", "dictionary")
# Settings that decide how a run goes and not what comes of it.
_HOW = {"model": ("device", "batch_size")}


@dataclass(frozen=True)
class PlateOptions:
    """What a plate run asks beside the settings.

    Parameters
    ----------
    most_samples : int or None
        Units that the dictionary is learned from at most, drawn from all wells alike; they are
        held in memory by the process that is started. None takes all, from a file in the folder.
    most_position_fields : int
        Fields from which the position component is measured at most, drawn from all plates and
        conditions alike; they are read three times.
    held_back : float, optional
        Share of the control wells of each plate that the whitening does not see, so that treatments
        can be compared with them; where not given, half of those of plates with eight or more.
    until : {"vectors", "dictionary", "profiles"}
        What the run ends with; another one in the same folder goes on from there.
    """

    most_samples: int | None = MOST_SAMPLES
    most_position_fields: int = MOST_POSITION_FIELDS
    held_back: float | None = None
    until: Literal["vectors", "dictionary", "profiles"] = "profiles"


def run_plate(
    listing: Listing,
    out: Path,
    config: PipelineConfig | None = None,
    *,
    dictionary: Path | None = None,
    place: Place | None = None,
    options: PlateOptions | None = None,
) -> dict[str, Any]:
    """Run from the fields of a plate to profiles of its wells.

    What was made of a field is kept in a file of its own: called again with the same, it goes on
    where it was stopped.

    Parameters
    ----------
    listing : Listing
        The fields.
    out : Path
        Folder of the run, which all workers can write to; made where it is missing.
    config : PipelineConfig, optional
        Settings; the defaults where not given.
    dictionary : Path, optional
        File of a dictionary to apply in place of fitting one.
    place : Place, optional
        Where fields are worked on; in this process where not given.
    options : PlateOptions, optional
        The defaults where not given.

    Returns
    -------
    dict
        The summary, as it is written to ``summary.json``.

    Raises
    ------
    MicrodlError
        If fields and settings do not fit together, another run is at work in the folder, or it
        holds a run that was begun otherwise.
    """
    out = out.absolute()
    with sole_driver(out), engine_at(place or Place()) as engine:
        run = _PlateRun(listing, out, config or PipelineConfig(), dictionary, engine)
        return run.result(options or PlateOptions())


@contextmanager
def engine_at(place: Place) -> Iterator[Engine]:
    """Start what works on fields, and end it.

    Parameters
    ----------
    place : Place
        Where they are to be worked on.

    Yields
    ------
    Engine

    Raises
    ------
    MicrodlError
        If more than one place is named, a package is missing, or nobody can be reached.
    """
    if sum(v is not None for v in (place.workers, place.scheduler, place.cluster)) > 1:
        raise MicrodlError("Choose one of workers, scheduler and cluster.")
    if place.workers is None and place.scheduler is None and place.cluster is None:
        try:
            yield ThisProcess()
        finally:
            let_go()
        return
    try:
        from napari_microdl.pipeline.plate.dask_engine import Dask, client_of
    except ImportError as error:
        raise MicrodlError(
            f"Several processes need the package distributed ({error}); install it with pip "
            "install 'napari-microdl[plate]', or run in one process."
        ) from error
    with ExitStack() as stack:
        yield Dask(client_of(place, stack))


class _PlateRun:
    def __init__(
        self,
        listing: Listing,
        out: Path,
        config: PipelineConfig,
        dictionary: Path | None,
        engine: Engine,
    ) -> None:
        self._listing, self._out, self._engine = listing, out, engine
        self._fields = list(listing.fields)
        self._sources = {item.number: item.source for item in listing.fields}
        self._metadata = listing.metadata()
        self._applied = None if dictionary is None else ConceptDictionary.load(dictionary)
        self._config = config if self._applied is None else config_of(self._applied, config)
        if self._config.tokens.scaling != "image":
            raise MicrodlError(
                "Over a whole plate, intensities cannot be measured before its fields are shared "
                "out; set the scaling of the tokens to 'image'."
            )
        self._held_back: set[int] = set()
        self._log: Log

    def result(self, options: PlateOptions) -> dict[str, Any]:
        """All of it; see `run_plate`."""
        task = current_task()
        with task.taking_notes() as notes:
            notes += self._listing.notes
            with task.stage("fields"):
                model, job = self._begin(options)
            self._log = Log(self._out)
            try:
                n = len(self._listing.fields)
                self._log.write("begin", fields=n, left_out=len(self._listing.left_out))
                summary = self._go(job, model, options, notes)
                self._log.write("end", **{k: v for k, v in summary.items() if k != "fields"})
            except BaseException as error:
                self._log.write("stopped", reason=str(error) or type(error).__name__)
                raise
            finally:
                self._log.close()
        return summary

    def _begin(self, options: PlateOptions) -> tuple[ModelSpec, Job]:
        """The model, and what is the same for all fields, after checking the folder."""
        config, out = self._config, self._out
        sources = [field.source for field in self._listing.fields]
        fitting = self._applied is None and options.until != "vectors"
        # What is refused is refused before anything is read.
        if self._applied is not None and options.until != "profiles":
            raise MicrodlError(
                "A dictionary that is applied gives profiles; leave out where to end, or the "
                "dictionary."
            )
        if fitting:
            check_controls(sources, config)
            if config.whitening.plates is not None:
                self._kind(sources)
        elif self._applied is not None and self._applied.plates is not None:
            known = {f.plate for f in sources if f.is_control} | self._applied.plates.means.keys()
            require_controls(sorted({f.plate for f in sources} - known), applied=True)
        first = _first_field(self._listing)
        channels = check_fields([first], config, fitting=False)
        if self._engine.here:
            model = model_of(config, channels).spec
        else:
            # Where this process runs there need not be a device.
            here = config.replace(model=config.model.replace(device="cpu"))
            model = load_model_of(here, channels).spec
        if self._applied is not None:
            self._applied.spec.check_model(model)
        channels = named_channels(channels, config, model)
        if note := channel_note(channels, config, model):
            current_task().note(note)
        # Settings that no dictionary can have are refused before anything is read.
        spec = DictionarySpec.of(
            model, config.tokens, config.units, tile_plan(model, config), channels
        )
        begun = {
            "version": __version__,
            "settings": _decisive(config),
            "channels": list(channels),
            "model": spec.model.id,
            "layer": spec.tokens.layer,
            "weights": model.weights_sha256,
            "dictionary": "" if self._applied is None else self._applied.fingerprint,
            "most_position_fields": options.most_position_fields,
        }
        self._manifest = Manifest(out, begun)
        if not (out / SETTINGS).exists():
            write_config(config, out / SETTINGS)
        write_table(self._listing.table(out), out / FIELDS)
        decides = {k: v for k, v in begun.items() if k in _OF_SAMPLES}
        settings: dict[str, Any] = decides["settings"]  # type: ignore[assignment]
        decides["settings"] = {k: settings[k] for k in ("model", "tokens", "cells", "units")}
        decides["background"] = config.measures_background
        job = Job(out, config, channels, _digest(decides))
        if self._applied is not None:
            self._applied.save(out / DICTIONARY)
            job = self._with_dictionary(job, self._applied, applied=True)
        return model, job

    def _with_dictionary(self, job: Job, dictionary: ConceptDictionary, *, applied: bool) -> Job:
        fingerprint = dictionary.fingerprint
        if dictionary.plates is not None:
            fingerprint += f" {dictionary.plates.digest}"
        return dataclasses.replace(
            job,
            dictionary=self._out / DICTIONARY,
            fingerprint=fingerprint,
            applied=applied,
        )

    def _go(
        self, job: Job, model: ModelSpec, options: PlateOptions, notes: list[str]
    ) -> dict[str, Any]:
        fields, task = self._fields, current_task()
        dictionary, applied = self._applied, self._applied is not None
        if dictionary is None or dictionary.plates is not None:
            if dictionary is None:
                job = self._with_places(job, options)
            with task.stage("tokens"):
                receipts = self._pass(read_vectors, "vectors", job, fields)
            self._check(receipts, fitting=options.until != "vectors" and not applied)
            if options.until == "vectors":
                return self._summary(receipts, notes, [FIELDS, f"{VECTORS}/"])
            self._hold_back(receipts, options.held_back)
            if dictionary is None:
                dictionary = self._fitted(job, model, receipts, options)
            else:
                dictionary = self._placed(job, dictionary, receipts)
            job = self._with_dictionary(job, dictionary, applied=applied)
            if options.until == "dictionary":
                return self._summary(receipts, notes, [DICTIONARY])
            known = {r.number for r in receipts if r.is_usable}
            with task.stage("activations"):
                usable = [item for item in fields if item.number in known]
                coded = self._pass(encode_vectors, "codes", job, usable)
            receipts = [r for r in receipts if not r.is_usable] + coded
        else:
            with task.stage("tokens"):
                receipts = self._pass(apply_dictionary, "codes", job, fields)
            self._check(receipts, fitting=False)
        sizes = [r.pixel_size for r in receipts if r.is_usable]
        if applied and (note := pixel_size_note(dictionary.pixel_size, sizes)):
            task.note(note)
        with task.stage("activations"):
            gathered = self._gathered(job, receipts)
        return self._summary(
            receipts, notes, gathered.files, wells=gathered.n_wells, found=gathered.best
        )

    def _gathered(self, job: Job, receipts: Sequence[Receipt]) -> Gathered:
        """What a run leaves for others; with workers it is one of them that has the memory."""
        n_units = {receipt.number: receipt.n_units for receipt in receipts}
        fields = [
            Coded(item.number, item.source.info, n_units[item.number])
            for item in self._fields
            if n_units.get(item.number)
        ]
        return self._engine.gather(gather, job, fields, self._metadata)

    def _check(self, receipts: Sequence[Receipt], *, fitting: bool) -> None:
        """Refuse what nothing can be made of."""
        usable = [r for r in receipts if r.is_usable]
        if not usable:
            raise MicrodlError(f"No field could be read; of the first: {receipts[0].reason}")
        empty = [not r.n_units for r in usable]
        sources = [self._sources[r.number] for r in usable]
        check_empty(sources, empty, self._config, fitting=fitting)

    # Parts --------------------------------------------------------------------------------------

    def _hold_back(self, receipts: Sequence[Receipt], share: float | None) -> None:
        """Choose control wells with units that what is made of controls does not see."""
        if not self._config.whitening.enabled:
            return
        known = {r.number for r in receipts if r.n_units}
        usable = [item for item in self._fields if item.number in known]
        sources = [item.source for item in usable]
        held = hold_back(sources, share, self._config.random_state)
        self._held_back = {usable[place].number for place in held}
        if held:
            wells = {(s.plate, s.well or s.name) for s in (sources[place] for place in held)}
            current_task().note(
                f"{len(wells)} control wells are held back from the whitening, for treatments to "
                "be compared with."
            )

    def _with_places(self, job: Job, options: PlateOptions) -> Job:
        """The job with a position component, measured on fields of all plates and conditions."""
        if not self._config.tokens.remove_position:
            return job
        fields, path = self._fields, self._out / PLACES
        sources = [item.source for item in fields]
        seed = self._config.random_state
        for number in draw_fields(sources, options.most_position_fields, seed):
            fields[number] = dataclasses.replace(fields[number], sampled=True)
        sample = [item for item in fields if item.sampled]
        made_from = _digest([job.key, [item.stamp for item in sample]])
        with_places = dataclasses.replace(job, places=path)
        if self._manifest.is_made(PLACES, made_from):
            return with_places
        with current_task().stage("tokens"):
            order = in_order(self._pass(sum_places, "places", job, sample))
            position = fit_places(job, order) if order else None
            if position is None:
                return job
            with self._manifest.making(PLACES, made_from):
                write_places(path, position)
                if self._config.units.pooled_by == "spread":
                    measured = in_order(self._pass(sum_distances, "scales", with_places, sample))
                    scales = fit_scales(with_places, measured)
                    write_places(path, PositionComponent(position.offsets, position.basis, scales))
        return with_places

    def _fitted(
        self, job: Job, model: ModelSpec, receipts: Sequence[Receipt], options: PlateOptions
    ) -> ConceptDictionary:
        """The dictionary of the run, fitted unless it is there."""
        path, ordered = self._out / DICTIONARY, in_order(receipts)
        learned_from = [
            (k.receipt.digest, k.well, k.is_control, k.info.condition) for k in self._known(ordered)
        ]
        made_from = _digest([job.key, learned_from, options.most_samples])
        if self._manifest.is_made(DICTIONARY, made_from):
            return ConceptDictionary.load(path)
        with self._manifest.making(DICTIONARY, made_from):
            dictionary = self._fit(job, model, receipts, options)
            dictionary.save(path)
        return dictionary

    def _fit(
        self, job: Job, model: ModelSpec, receipts: Sequence[Receipt], options: PlateOptions
    ) -> ConceptDictionary:
        ordered, task = in_order(receipts), current_task()
        fields = self._known(ordered)
        with task.stage("whitening"):
            kind, plates = self._kind([self._sources[f.receipt.number] for f in fields]), None
            if kind != "together":
                plates = fit_references(plate_moments(job, fields), kind)
            whitening = fit_whitening_of(job, fields, plates)
        with task.stage("dictionary"):
            dictionary = fit_dictionary(job, fields, model, whitening, options.most_samples, plates)
        dictionary.pixel_size = common_pixel_size([r.pixel_size for r in receipts if r.is_usable])
        dictionary.provenance = {
            "config": self._config.to_dict(),
            "fields": self._described(ordered),
            "packages": package_versions(),
            "weights_source": model.source,
            "weights_non_commercial": model.non_commercial,
        }
        last = dictionary.icfl.history_[-1]
        dictionary.figures = {
            "n_samples": sum(r.n_units for r in ordered),
            "n_control_samples": sum(f.receipt.n_units for f in fields if f.is_control),
            "r2": float(last.r2),
            "steps": int(last.step),
        }
        return dictionary

    def _placed(
        self, job: Job, dictionary: ConceptDictionary, receipts: Sequence[Receipt]
    ) -> ConceptDictionary:
        """The dictionary that is applied, with references of the plates of this run."""
        assert dictionary.plates is not None
        with current_task().stage("whitening"):
            ordered = in_order(receipts)
            moments = plate_moments(job, self._known(ordered))
            plates = dictionary.plates.applied_to(moments)
        known = {**dictionary.provenance, "placed": self._described(ordered)}
        placed = dataclasses.replace(dictionary, plates=plates, provenance=known)
        placed.save(self._out / DICTIONARY)
        return placed

    def _kind(self, fields: Sequence[FieldInfo]) -> PlateKind:
        """How plates are brought together."""
        settings = self._config.whitening
        if not settings.enabled:
            return "together"
        return kind_for(settings.plates, [f.plate for f in fields], [f.is_control for f in fields])

    def _known(self, ordered: Sequence[Receipt]) -> list[Known]:
        wells = dict(zip(self._metadata.index.tolist(), well_names(self._metadata), strict=True))
        return [
            Known(
                r,
                self._sources[r.number].plate,
                str(wells[r.number]),
                self._sources[r.number].is_control and r.number not in self._held_back,
                self._sources[r.number].info,
            )
            for r in ordered
        ]

    def _described(self, ordered: Sequence[Receipt]) -> list[dict[str, Any]]:
        """Fields as the provenance of a dictionary lists them."""
        found = []
        for receipt in sorted(ordered, key=lambda r: r.number):
            info = dataclasses.asdict(self._sources[receipt.number].info)
            info["control"] = info.pop("is_control")
            if receipt.number in self._held_back:
                info["held_back"] = True
            found.append({**info, "units": receipt.n_units})
        return found

    def _pass(self, work: Work, what: str, job: Job, items: Sequence[PlateField]) -> list[Receipt]:
        """Work on every field, and tell how it goes."""
        task, n, started = current_task(), len(items), time.monotonic()
        message = _MESSAGES[what]
        task.progress(0, n, message)
        receipts: list[Receipt] = []
        fresh = 0
        for receipt in self._engine.work(work, job, items):
            receipts.append(receipt)
            fresh += receipt.fresh
            entry = {
                k: v for k, v in dataclasses.asdict(receipt).items() if k not in ("order", "notes")
            }
            self._log.write("field", work=what, **entry)
            rate = fresh / max(time.monotonic() - started, 1e-9)
            task.progress(len(receipts), n, f"{message}, {rate:.3g} fields a second")
        for note in first_notes([note for receipt in receipts for note in receipt.notes]):
            task.note(note)
        return receipts

    def _summary(
        self,
        receipts: Sequence[Receipt],
        notes: Sequence[str],
        files: Sequence[str],
        *,
        wells: int | None = None,
        found: str = "",
    ) -> dict[str, Any]:
        """Write what a run has come to: nothing of when, so that runs can be compared."""
        summary = counts_of([*self._listing.left_out, *receipts])
        summary |= {
            "n_wells": wells,
            "best_concepts": found,
            "notes": list(dict.fromkeys(notes)),
            "files": list(files),
        }
        write_text(json.dumps(summary, indent=2) + "\n", self._out / SUMMARY)
        return summary


_MESSAGES = {
    "places": "Measuring what tokens owe to their place",
    "scales": "Measuring how far tokens of a place lie apart",
    "vectors": "Reading tokens",
    "codes": "Finding concepts",
}


def _first_field(listing: Listing) -> Field:
    """The first field that opens."""
    reason = ""
    for item in listing.fields[:_TRIED]:
        try:
            return item.open()
        except (MicrodlError, OSError) as error:
            reason = reason or str(error)
    raise MicrodlError(f"None of the first fields can be opened; of the first: {reason}")


def _decisive(config: PipelineConfig) -> dict[str, Any]:
    """Settings that decide what comes of a run."""
    values = config.to_dict()
    values.pop("cache")
    for group, names in _HOW.items():
        values[group] = {k: v for k, v in values[group].items() if k not in names}
    return values


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
