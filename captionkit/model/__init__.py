"""The network (encoders, decoders, search) and the captioner that is made of it."""
