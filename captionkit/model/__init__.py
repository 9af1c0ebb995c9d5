"""The network (encoders, decoders, search) and the captioner that is made of it.

Nothing is imported here, so that options can be read without torch. `captionkit` exports `Captioner`, `Caption` and
`Hypothesis`; `encoders`, `decoders` and `search` export their own names.
"""
