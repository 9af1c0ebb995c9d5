"""Captioned corpora in the formats the field uses, as one record type."""
