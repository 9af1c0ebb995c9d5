"""The templates of pages, and the policy that each page names for itself."""

from __future__ import annotations

import base64
import hashlib

from jinja2 import BaseLoader, ChoiceLoader, Environment, PackageLoader, StrictUndefined


def environment(*packages: str) -> Environment:
    """Templates of some packages, and those of this one. Values are escaped."""
    loaders: list[BaseLoader] = [PackageLoader(package, ".") for package in (*packages, "captionkit.drawing")]
    return Environment(loader=ChoiceLoader(loaders), autoescape=True, undefined=StrictUndefined)


def policy(style: str, script: str = "") -> str:
    """A Content-Security-Policy that allows this style, this script and embedded pictures, and nothing else."""
    allowed = f"style-src {allow(style)}"
    if script:
        allowed += f"; script-src {allow(script)}"
    forbidden = "base-uri 'none'; form-action 'none'"
    if script:
        forbidden += "; require-trusted-types-for 'script'; trusted-types 'none'"
    return f"default-src 'none'; img-src data:; {allowed}; {forbidden}"


def allow(text: str) -> str:
    """What a Content-Security-Policy names an inline text by."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
