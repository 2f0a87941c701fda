"Packaging: every value comes from settings.ini, the one place that nbdev reads too."

from configparser import ConfigParser
from pathlib import Path
from shutil import copy2

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

root = Path(__file__).parent
ini = ConfigParser(delimiters=["="])
ini.read(root / "settings.ini", encoding="utf-8")
cfg = ini["DEFAULT"]
extras = {key.removesuffix("_requirements"): cfg[key].split() for key in cfg if key.endswith("_requirements")}


class BuildWithProject(build_py):
    "Puts what `disti run` and `disti pipeline` read into the package: disti/_project/, see disti.stage.resource."

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return  # the checkout itself is used
        for pattern in ("Snakefile", "nbs/[0-9]*.ipynb", "recipes/*.yaml", "profiles/*/config.yaml"):
            for source in root.glob(pattern):
                target = Path(self.build_lib) / "disti" / "_project" / source.relative_to(root)
                target.parent.mkdir(parents=True, exist_ok=True)
                copy2(source, target)


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
    package_data={"disti": ["*.j2"]},
    cmdclass={"build_py": BuildWithProject},
    zip_safe=False,
)
