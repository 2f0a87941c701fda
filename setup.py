"Packaging: every value comes from settings.ini, the one place that nbdev reads too."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

root = Path(__file__).parent
ini = ConfigParser(delimiters=["="])
ini.read(root / "settings.ini", encoding="utf-8")
cfg = ini["DEFAULT"]
extras = {key.removesuffix("_requirements"): cfg[key].split() for key in cfg if key.endswith("_requirements")}

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(root / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    url=cfg["git_url"],
    license="Apache-2.0",
    keywords=cfg["keywords"],
    python_requires=f">={cfg['min_python']}",
    packages=find_packages(include=["disti", "disti.*"]),
    install_requires=cfg["requirements"].split(),
    extras_require=extras | {"all": sorted({need for needs in extras.values() for need in needs})},
    entry_points={"console_scripts": cfg["console_scripts"].split(), "nbdev": ["disti=disti._modidx:d"]},
    include_package_data=True,
    zip_safe=False,
)
