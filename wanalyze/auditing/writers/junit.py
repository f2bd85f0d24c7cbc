"""JUnit XML: a suite for each adapter, a test for each rule that was applied."""

from __future__ import annotations

from xml.etree import ElementTree as xml

from wanalyze.auditing.records import Audit, Audited, Effective, Finding
from wanalyze.printable import printable


def junit(found: Audit) -> str:
    """What the policy fails on is a failure, what could not be read an error, what was not checked is skipped."""
    root = xml.Element("testsuites", name="wanalyze audit")
    for adapter in found.adapters:
        _suite(root, adapter, found.policy)
    xml.indent(root, " ")
    return xml.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _suite(root: xml.Element, adapter: Audited, policy: Effective) -> None:
    codes = [ruling.code for ruling in policy.rules if ruling.severity is not None]
    skipped = {code: each.reason for each in adapter.unchecked for code in each.rules}
    failing = {
        code: [found for found in adapter.findings if found.code == code and found.severity.reaches(policy.fail_on)]
        for code in codes
    }
    suite = xml.SubElement(
        root,
        "testsuite",
        name=printable(adapter.ref),
        tests=str(len(codes) + 1),
        failures=str(sum(bool(findings) for findings in failing.values())),
        errors=str(int(adapter.reason is not None)),
        skipped=str(sum(code in skipped and not failing[code] for code in codes)),
    )
    _readable(suite, adapter)
    for code in codes:
        case = _case(suite, adapter, code)
        if failing[code]:
            _failure(case, failing[code])
        elif code in skipped:
            xml.SubElement(case, "skipped", message=printable(skipped[code]))


def _case(suite: xml.Element, adapter: Audited, name: str) -> xml.Element:
    return xml.SubElement(suite, "testcase", classname=printable(adapter.ref), name=name)


def _readable(suite: xml.Element, adapter: Audited) -> None:
    case = _case(suite, adapter, "readable")
    if adapter.reason is not None:
        xml.SubElement(case, "error", message=printable(adapter.reason), type="unreadable")


def _failure(case: xml.Element, findings: list[Finding]) -> None:
    first = findings[0]
    failure = xml.SubElement(case, "failure", message=printable(first.message), type=first.severity.value)
    failure.text = "\n".join(printable(f"{found.message}: {found.fix}") for found in findings)
