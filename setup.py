"""What an index shows beside pyproject.toml: addresses, and the README with links and pictures that lead somewhere.

HPCSEG_REPOSITORY says where the code is published, as `make dist` knows it; without it the README stays as it is.
"""

import os
import re
import tomllib
from pathlib import Path

from setuptools import setup

VERSION = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
REPOSITORY = os.environ.get("HPCSEG_REPOSITORY", "").removesuffix("/").removesuffix(".git")
URLS = {"Paper": "https://arxiv.org/abs/2003.07923"}
README = Path("README.md").read_text(encoding="utf-8")

if REPOSITORY:
    URLS |= {"Homepage": REPOSITORY, "Repository": REPOSITORY, "Issues": f"{REPOSITORY}/issues"}
    URLS |= {"Changelog": f"{REPOSITORY}/blob/v{VERSION}/CHANGELOG.md"}
    URLS |= {"Documentation": f"{REPOSITORY}/tree/v{VERSION}/docs"}
    README = re.sub(
        r"(!?)(\[[^\]]*\]\()([^)#:\s]+)(?=[)#])",
        lambda link: f"{link[1]}{link[2]}{REPOSITORY}/{'raw' if link[1] else 'blob'}/v{VERSION}/{link[3]}",
        README,
    )

setup(long_description=README, long_description_content_type="text/markdown", project_urls=URLS)
