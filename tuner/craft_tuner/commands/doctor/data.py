"""The data, and the fit that the settings would make of it."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path

from rich.filesize import decimal

from craft_shared.messages import CardLimits, Policy
from craft_tuner.commands.check_data import report_on, sentence
from craft_tuner.commands.doctor.sheet import Sheet
from craft_tuner.commands.progress import times
from craft_tuner.config.fit_config import FitConfig
from craft_tuner.data.check import LARGE, Finding
from craft_tuner.data.dataset import Dataset
from craft_tuner.data.places import OUTSIDE
from craft_tuner.data.sources import list_source
from craft_tuner.training.estimate import Estimate, estimate
from craft_tuner.training.foresight import Foreseen, Terms
from craft_tuner.training.traffic import Link, Traffic

_REMEDIES: Mapping[str, str] = {
    "damaged or not an image": "replace them, or take them out of the dataset",
    "the same image in train and test": "remove one of each pair",
    "the same image for validation and elsewhere": "remove one of each pair",
    "the same image under two classes": "keep the one that is right",
    "class without training images": "give it some, or take it out of the test images too",
    "class without test images": "give it some, or take it out of the training images too",
    "class without images": "give it some, or remove its folder",
    "folder without images": "give it some, or take it out",
    "missing class folder": "restore it",
    "missing file": "restore the files, or take them out of the list",
    "file listed twice": "keep one line of each",
    "line without path or label": "complete the lines, or remove them",
    "unknown split": "write train, val or test",
    "name that is not UTF-8": "rename it",
    OUTSIDE: "put the files into its folder, or allow theirs with --allow-outside",
}
_SHOWN = 3
_PATIENCE_S = 600.0
"""Calls that a key's rate stretches beyond this are told."""


def check_data(
    sheet: Sheet,
    source: str,
    config: FitConfig | None,
    *,
    class_names: Path | None,
    outside: tuple[Path, ...],
    opened: bool,
    limits: CardLimits | None,
) -> Dataset | None:
    """All that `data check` finds; the dataset if a fit can use it.

    Settings that cannot be used are None.
    """
    with sheet.trying("data"):
        listing = list_source(source, class_names=class_names, outside=outside)
        report = report_on(listing, config, limits, opened=opened)
        size = "" if report.bytes is None else f" of {decimal(report.bytes)}"
        sheet.add(
            "ok",
            "data",
            f"the data has {report.classes:,} classes, {report.train:,} training and "
            f"{report.test:,} test images{size}",
        )
        for finding in report.findings:
            sheet.add(
                "fail" if finding.problem else "warn",
                "data",
                sentence(finding, shown=_SHOWN),
                _remedy(finding),
            )
        return listing.dataset() if report.usable else None
    return None


def check_plan(
    sheet: Sheet,
    config: FitConfig,
    dataset: Dataset,
    terms: Terms | None,
    *,
    link: Link | None,
    check_texts: Callable[[Foreseen], None],
) -> Estimate | None:
    """The plan of the fit, for what the key may and has left, and whether the server takes it."""
    with sheet.trying("plan"):
        rate = link.bytes_per_s if link else None
        found = estimate(config, dataset, terms, bytes_per_s=rate, check=check_texts)
        traffic = found.traffic
        key = "" if terms else ", planned for no key and a model of the paper's shapes"
        sheet.add(
            "ok",
            "plan",
            f"the plan is {found.plan.method}: {found.plan.spending}, with {traffic.pictures:,} "
            f"images of about {decimal(traffic.picture_bytes)} to send{key}",
        )
        if link is not None and link.bytes_per_s is not None:
            sheet.add("ok", "wait", times(traffic, link.bytes_per_s))
        if terms is not None and terms.policy is not None:
            _check_policy(sheet, terms.policy, traffic)
        return found
    return None


def _check_policy(sheet: Sheet, policy: Policy, traffic: Traffic) -> None:
    quota, rate = policy.image_bytes, policy.requests_per_minute
    if quota is not None and traffic.picture_bytes > quota:
        sheet.add(
            "fail",
            "quota",
            f"the key's owner may keep {decimal(quota)} of images, and the fit's have about "
            f"{decimal(traffic.picture_bytes)}",
            "take fewer --shots or smaller images, or ask the server's owner for more",
        )
    elif quota is not None:
        sheet.add("ok", "quota", f"the key's owner may keep {decimal(quota)} of images")
    if rate is not None and traffic.requests / rate * 60 > _PATIENCE_S:
        wait = timedelta(minutes=traffic.requests // rate)
        sheet.add(
            "warn",
            "rate",
            f"the key may make {rate:,} calls a minute, so that the fit's {traffic.requests:,} "
            f"take {wait}",
            "ask the server's owner for more",
        )


def _remedy(finding: Finding) -> str:
    """What to do; nothing where the finding says it, or where nothing has to be done."""
    if not finding.problem or finding.what == "class names":
        return ""
    if "which needs" in finding.what:
        return "install that, or convert them to PNG or JPEG"
    if finding.what.startswith(LARGE):
        return "make them smaller, or take them out of the dataset"
    return _REMEDIES.get(finding.what, "mend it, see docs/data.md")
