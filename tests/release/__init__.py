"""Checks before a release: `python -m tests.release`.

Builds the archives and goes through the steps below; with names, through those only. Exits with 0 if all have
passed, and with 1 if one has failed or could not be carried out here, which the report says in so many words.

    build        the sdist, and the wheel from it
    again        made from the sdist in another folder, at another time, both are the same to the byte
    contents     exactly what belongs is in them, and no path of this machine
    metadata     what an index would show; the readme renders
    licence      the project states one, and so do the data that it passes on
    bare         the wheel alone runs the demo with the lowest versions that it allows
    sdist        tests run from the unpacked sdist
    licences     of everything that each extra brings: permissive ones only
    audit        known vulnerabilities of what is installed
    extras       the lowest versions that each extra allows pass the tests of its rooms
    pythons      the wheel installs and the tests of the core pass under each interpreter

The tools are in the dependency groups `release` and `audit`.
"""
