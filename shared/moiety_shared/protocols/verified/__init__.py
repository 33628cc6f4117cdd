"""Verified mode: one cheating party is caught before anybody accepts a wrong result. docs/how-it-works.md describes it.

Words of Z_{2^72} carry the plan's 32-bit values below, and have room for tags above (SPDZ2k; Cramer et al., 2018):

    [v]_p, [Delta v]_p      alice and bob each hold a share of a value and of its tag; nobody holds Delta
    Opening(claim=...)      an opening carries what it promised, and the end of a run asks for every promise at once

The dealer is honest here, as everywhere.
"""
