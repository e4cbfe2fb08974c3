//! Writes tar archives, illegal ones included: every field of a header can be chosen.

/// One header, as text fields; [`Header::bytes`] adds the checksum.
#[derive(Clone)]
pub struct Header {
    pub name: Vec<u8>,
    pub kind: u8,
    pub link: Vec<u8>,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: u64,
    pub size: u64,
    pub device: (u32, u32),
    pub gnu: bool,
}

impl Header {
    pub fn new(kind: u8, name: &str) -> Self {
        Self {
            name: name.into(),
            kind,
            link: Vec::new(),
            mode: if kind == b'5' { 0o755 } else { 0o644 },
            uid: 0,
            gid: 0,
            mtime: 1_000_000_000,
            size: 0,
            device: (0, 0),
            gnu: false,
        }
    }

    pub fn bytes(&self) -> [u8; 512] {
        let mut block = [0u8; 512];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.name[..self.name.len().min(100)]);
        put(100, format!("{:07o}\0", self.mode).as_bytes());
        put(108, format!("{:07o}\0", self.uid).as_bytes());
        put(116, format!("{:07o}\0", self.gid).as_bytes());
        put(124, format!("{:011o}\0", self.size).as_bytes());
        put(136, format!("{:011o}\0", self.mtime).as_bytes());
        put(156, &[self.kind]);
        put(157, &self.link[..self.link.len().min(100)]);
        put(257, if self.gnu { b"ustar  \0" } else { b"ustar\x0000" });
        put(329, format!("{:07o}\0", self.device.0).as_bytes());
        put(337, format!("{:07o}\0", self.device.1).as_bytes());
        checksum(&mut block);
        block
    }
}

/// Puts the right checksum into a header.
pub fn checksum(block: &mut [u8; 512]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// An archive that grows.
#[derive(Default, Clone)]
pub struct Tar(pub Vec<u8>);

impl Tar {
    pub fn new() -> Self {
        Self::default()
    }

    /// A header and its data, padded; the size in the header is taken from `data`.
    pub fn raw(mut self, mut header: Header, data: &[u8]) -> Self {
        header.size = data.len() as u64;
        self.0.extend(header.bytes());
        self.data(data)
    }

    /// A header as it is, without data.
    pub fn header(mut self, header: &Header) -> Self {
        self.0.extend(header.bytes());
        self
    }

    pub fn data(mut self, data: &[u8]) -> Self {
        self.0.extend(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn dir(self, name: &str) -> Self {
        self.raw(Header::new(b'5', name), b"")
    }

    pub fn file(self, name: &str, data: &[u8]) -> Self {
        self.raw(Header::new(b'0', name), data)
    }

    pub fn link(self, kind: u8, name: &str, target: &str) -> Self {
        self.raw(
            Header {
                link: target.into(),
                mode: 0o777,
                ..Header::new(kind, name)
            },
            b"",
        )
    }

    /// A PAX header for the next entry.
    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        self.pax_of(b'x', records)
    }

    pub fn pax_of(self, kind: u8, records: &[(&str, &[u8])]) -> Self {
        let mut body = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            body.extend(format!("{length} {key}=").as_bytes());
            body.extend(*value);
            body.push(b'\n');
        }
        self.raw(Header::new(kind, "PaxHeaders/x"), &body)
    }

    /// A GNU long name (`L`) or link (`K`).
    pub fn long(self, kind: u8, value: &str) -> Self {
        self.raw(
            Header {
                gnu: true,
                ..Header::new(kind, "././@LongLink")
            },
            format!("{value}\0").as_bytes(),
        )
    }

    /// With the two blocks of zeros at the end.
    pub fn finish(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}
