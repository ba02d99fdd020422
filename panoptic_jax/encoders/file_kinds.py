"""What a file of weights is, where it is not what it should be: told by its first bytes.

Downloads leave such files behind: pointers, web pages, archives, the format of another library.
`encoders/safetensors_files.py` and `weights/torch_file.py` read what is right.
"""

import re

START = 1024  # bytes that are enough to tell
_LARGEST_HEADER = 100_000_000  # bytes; safetensors itself allows no more
_AGAIN = 'copy or download it again'

# The first bytes of formats that need no more than a look, and what to do.
_MAGIC = {
    b'\x1f\x8b': 'is a gzip archive; unpack it first (gunzip, or tar -xzf)',
    b'BZh': 'is a bzip2 archive; unpack it first',
    b'\xfd7zXZ': 'is an xz archive; unpack it first',
    b'\x28\xb5\x2f\xfd': 'is a zstd archive; unpack it first',
    b'7z\xbc\xaf': 'is a 7z archive; unpack it first',
    b'\x89HDF': 'is an HDF5 file, such as Keras writes; take the weights in another format',
    b'\x93NUMPY': 'is a NumPy array; take the weights in another format',
    b'GGUF': 'is a GGUF file, of quantised weights; take the original weights',
}


def is_safetensors(start: bytes) -> bool:
    """Whether a file begins like a safetensors file: the length of its header, then JSON."""
    length = int.from_bytes(start[:8], 'little')
    return 2 <= length <= _LARGEST_HEADER and start[8:9] == b'{'


def is_torch(start: bytes) -> bool:
    """Whether a file begins like one of PyTorch's, a zip archive or, before 1.6, a pickle."""
    return start.startswith((b'PK\x03\x04', b'\x80\x02'))


def refusal(start: bytes) -> str | None:
    """What the file is and what to do, as the rest of a sentence; None for weights and unknown.

    Args:
      start: The first `START` bytes of the file, or all where it is shorter.
    """
    if not start:
        return f'is empty; {_AGAIN}'
    if not start.strip(b'\0'):
        return f'begins with zeros, as after a copy that was broken off; {_AGAIN}'
    if start.startswith(b'version https://git-lfs'):
        return (
            'is a Git LFS pointer, not the file that it stands for; run git lfs pull in the clone, '
            'or download the file itself'
        )
    for magic, what in _MAGIC.items():
        if start.startswith(magic):
            return what
    if start[257:262] == b'ustar':
        return 'is a tar archive; unpack it first (tar -xf)'
    # Pages may open with a byte order mark or empty lines.
    text = start.removeprefix(b'\xef\xbb\xbf').lstrip().lower()
    if re.match(rb'<(!doctype html|html|head)', text):
        return (
            'is a web page; download the file itself, on the Hugging Face Hub with /resolve/ in '
            'the place of /blob/ in its address'
        )
    if text.startswith(b'<'):
        return f'is XML text, such as the error message of a server; {_AGAIN}'
    if text.startswith((b'{', b'[')):
        return 'is JSON text, such as a list of parts or an error message; take the weights'
    return None
