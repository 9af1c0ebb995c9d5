"""Git LFS pointers: small texts that stand in a repository for the files themselves, until those are fetched.

https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
"""

FIRST_LINE = b"version https://git-lfs.github.com/spec/"
"""What a pointer begins with."""
LFS_POINTER = "a Git LFS pointer, not the file itself; fetch that with `git lfs pull`"
"""What to say of one."""


def is_lfs_pointer(head: bytes) -> bool:
    """Whether a file that begins so is a pointer."""
    return head.startswith(FIRST_LINE)
