//! The checksum of zip: CRC-32 as in ISO 3309, eight bytes at a time.

const POLYNOMIAL: u32 = 0xedb8_8320;

static TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut word = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            word = if word & 1 == 1 { (word >> 1) ^ POLYNOMIAL } else { word >> 1 };
            bit += 1;
        }
        tables[0][byte] = word;
        byte += 1;
    }
    let mut table = 1;
    while table < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[table - 1][byte];
            tables[table][byte] = (before >> 8) ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        table += 1;
    }
    tables
}

/// A checksum in the making.
#[derive(Clone, Debug)]
pub struct Crc(u32);

impl Default for Crc {
    fn default() -> Self {
        Self(u32::MAX)
    }
}

impl Crc {
    pub fn add(&mut self, bytes: &[u8]) {
        let mut word = self.0;
        let mut eights = bytes.chunks_exact(8);
        for eight in &mut eights {
            let low = word ^ u32::from_le_bytes([eight[0], eight[1], eight[2], eight[3]]);
            let [a, b, c, d] = low.to_le_bytes();
            word = TABLES[7][usize::from(a)]
                ^ TABLES[6][usize::from(b)]
                ^ TABLES[5][usize::from(c)]
                ^ TABLES[4][usize::from(d)]
                ^ TABLES[3][usize::from(eight[4])]
                ^ TABLES[2][usize::from(eight[5])]
                ^ TABLES[1][usize::from(eight[6])]
                ^ TABLES[0][usize::from(eight[7])];
        }
        for byte in eights.remainder() {
            let [low, ..] = word.to_le_bytes();
            word = (word >> 8) ^ TABLES[0][usize::from(low ^ byte)];
        }
        self.0 = word;
    }

    pub fn sum(self) -> u32 {
        !self.0
    }
}

#[cfg(test)]
mod tests {
    use super::Crc;

    #[test]
    fn the_checksum_is_the_known_one() {
        let sum = |parts: &[&[u8]]| {
            let mut crc = Crc::default();
            parts.iter().for_each(|part| crc.add(part));
            crc.sum()
        };
        assert_eq!(sum(&[b"123456789"]), 0xcbf4_3926);
        assert_eq!(sum(&[b"1", b"23456789"]), 0xcbf4_3926);
        assert_eq!(sum(&[]), 0);
        assert_eq!(sum(&[&[0xff; 32]]), 0xff6c_ab0b);
    }
}
