"Everything is in settings.ini; this file only hands it to setuptools."
import re
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_namespace_packages, setup

ini = ConfigParser(delimiters=['='])
ini.read(Path(__file__).with_name('settings.ini'), encoding='utf-8')
cfg = ini['DEFAULT']
lib = cfg['lib_name']
extras = {k.removesuffix('_requirements'): cfg[k].split() for k in cfg if k.endswith('_requirements')}


def on_an_index(text):
    "The README as a package index shows it: links into the repository lead there."
    home = cfg['git_url']
    text = re.sub(r'(!\[[^]]*\]\()(?!\w+:|#)', rf"\1{home}/raw/{cfg['branch']}/", text)  # pictures
    return re.sub(r'(\]\()(?!\w+:|#)', rf"\1{home}/blob/{cfg['branch']}/", text)


readme = Path(__file__).with_name('README.md').read_text(encoding='utf-8')

setup(
    name=lib, version=cfg['version'], description=cfg['description'], keywords=cfg['keywords'].split(),
    author=cfg['author'], author_email=cfg['author_email'], url=cfg['git_url'],
    long_description=on_an_index(readme), long_description_content_type='text/markdown',
    license_expression='Apache-2.0', license_files=['LICENSE'],
    python_requires=f">={cfg['min_python']}", install_requires=cfg['requirements'].split(), extras_require=extras,
    packages=find_namespace_packages(include=[lib, f'{lib}.*']), package_data={lib: cfg['package_data'].split()}, include_package_data=True,
    project_urls=dict(Source=cfg['git_url'], Documentation=cfg['doc_host'] + cfg['doc_baseurl'], Changes=f"{cfg['git_url']}/blob/{cfg['branch']}/CHANGELOG.md"),
    classifiers=[
        'Development Status :: 4 - Beta', f"Intended Audience :: {cfg['audience']}", 'Operating System :: POSIX :: Linux',
        *(f'Programming Language :: Python :: {version}' for version in ['3', *cfg['pythons'].split()]),
        'Topic :: Scientific/Engineering :: Artificial Intelligence', 'Topic :: Scientific/Engineering :: Medical Science Apps.'],
    entry_points={'console_scripts': cfg['console_scripts'].split(), 'nbdev': [f'{lib}={lib}._modidx:d']},
    zip_safe=False)
