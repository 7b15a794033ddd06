"""Reports: a run or a comparison as one self-contained page of HTML.

``run`` and ``comparison`` make the sections of a page out of a folder, ``blocks`` has the parts of which sections are made,
``pictures`` turns figures into SVG, ``command`` finds the command of a run, ``page`` renders and writes, ``watch`` serves a
page that is refreshed. Nothing in a folder is interpreted as HTML.
"""
