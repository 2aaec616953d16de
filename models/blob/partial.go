package blob

import (
	"encoding"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/dhowfleet/dhow/test/failpoint"
)

const (
	// checkpointEvery is how many bytes are written between two records: what a kill may cost, with as much again to
	// spare for what lies in the buffers between network and file.
	checkpointEvery = 512 << 10
	// recordSyncEvery is how many bytes are written between two syncs of the record itself. A record that is lost in a
	// power cut costs the bytes since the one before; a record that ran ahead of its data would cost the whole
	// download, so data is always synced before its record is written.
	recordSyncEvery = 16 << 20

	recordSuffix = ".state"
	slotSize     = 512
	recordMagic  = "dhowpart"
	bootSize     = 16
	headSize     = 8 + 8 + 8 + 8 + bootSize + 2
)

// partial is a file that grows, with a record of how far it is known to be good. Only the bytes up to the record count:
// opening cuts the rest off.
type partial struct {
	s            *Store
	path         string
	data, record *os.File
	algorithm    digest.Algorithm
	hash         hash.Hash
	size         int64 // promised, or -1
	offset       int64
	recorded     int64
	synced       int64 // offset of the last record that was itself synced
	sequence     uint64
	// boot is the boot of the machine in which all of the data was written. Data of an earlier boot went through a power
	// cut, perhaps on a disk that lies about syncing, and is read again before it is believed.
	boot [bootSize]byte
}

// openPartial opens or, when create is set, makes the partial file at path.
func (s *Store) openPartial(path string, algorithm digest.Algorithm, size int64, create bool) (*partial, error) {
	h, err := newHash(algorithm)
	if err != nil {
		return nil, err
	}
	p := &partial{s: s, path: path, algorithm: algorithm, hash: h, size: size, boot: s.boot}
	if p.data, err = s.openLocked(path, create); err != nil {
		return nil, err
	}
	if err := p.load(); err != nil {
		p.release()
		return nil, err
	}
	return p, nil
}

// openLocked opens and locks the file at path and makes sure that it still is the file at path: Collect, or a commit,
// may have moved it between the two.
func (s *Store) openLocked(path string, create bool) (*os.File, error) {
	flags := os.O_RDWR | unix.O_NOFOLLOW
	if create {
		if err := s.check("create"); err != nil {
			return nil, err
		}
		flags |= os.O_CREATE
	}
	for range 10 {
		f, err := os.OpenFile(path, flags, 0o600)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%w: %s", ErrNotFound, filepath.Base(path))
		}
		if err != nil {
			return nil, fmt.Errorf("cannot open partial blob: %w", noSpace(err))
		}
		if err := lock(f); err != nil {
			f.Close()
			return nil, fmt.Errorf("cannot open partial blob: %w", err)
		}
		held, err := f.Stat()
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("cannot open partial blob: %w", err)
		}
		if named, err := os.Lstat(path); err == nil && os.SameFile(held, named) {
			return f, nil
		}
		f.Close()
	}
	return nil, fmt.Errorf("cannot open partial blob: %w", ErrBusy)
}

// load reads the record and brings the data file to its state.
func (p *partial) load() error {
	info, err := p.data.Stat()
	if err != nil {
		return fmt.Errorf("cannot open partial blob: %w", err)
	}
	if err := p.s.check("create"); err != nil {
		return err
	}
	p.record, err = os.OpenFile(p.path+recordSuffix, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("cannot open partial blob: %w", noSpace(err))
	}
	slots := make([]byte, 2*slotSize)
	n, err := io.ReadFull(p.record, slots)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("cannot read record of partial blob: %w", err)
	}
	for i := 0; (i+1)*slotSize <= n; i++ {
		p.adopt(slots[i*slotSize:(i+1)*slotSize], info.Size())
	}
	p.recorded, p.synced = p.offset, p.offset
	if n < len(slots) {
		// The blocks are taken now, so that progress can still be recorded when the disk is full.
		if _, err := p.record.WriteAt(slots[n:], int64(n)); err != nil {
			return fmt.Errorf("cannot open partial blob: %w", noSpace(err))
		}
	}
	if info.Size() != p.offset {
		if err := p.s.check("truncate"); err != nil {
			return err
		}
		if err := p.data.Truncate(p.offset); err != nil {
			return fmt.Errorf("cannot open partial blob: %w", noSpace(err))
		}
	}
	if _, err := p.data.Seek(p.offset, io.SeekStart); err != nil {
		return fmt.Errorf("cannot open partial blob: %w", err)
	}
	if info.Size() == 0 {
		failpoint.Here("blob/partial-created")
		return p.s.syncDir(filepath.Dir(p.path))
	}
	return nil
}

// A slot is: magic, sequence, size, offset, boot, length of the hash's state, the state, and at its end a CRC.
// Two slots are written in turn, so that a torn write leaves the other.
func (p *partial) encode() ([]byte, error) {
	state, err := p.hash.(encoding.BinaryMarshaler).MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("cannot save hash: %w", err)
	}
	slot := make([]byte, 0, slotSize)
	slot = append(slot, recordMagic...)
	slot = binary.LittleEndian.AppendUint64(slot, p.sequence)
	slot = binary.LittleEndian.AppendUint64(slot, uint64(p.size))
	slot = binary.LittleEndian.AppendUint64(slot, uint64(p.offset))
	slot = append(slot, p.boot[:]...)
	slot = binary.LittleEndian.AppendUint16(slot, uint16(len(state)))
	slot = append(slot, state...)
	slot = slot[:slotSize-4]
	return binary.LittleEndian.AppendUint32(slot, crc32.ChecksumIEEE(slot)), nil
}

// adopt takes over what a slot says if it is whole, newer, and about this content.
func (p *partial) adopt(slot []byte, length int64) {
	body := slot[:slotSize-4]
	if string(body[:8]) != recordMagic || binary.LittleEndian.Uint32(slot[slotSize-4:]) != crc32.ChecksumIEEE(body) {
		return
	}
	sequence := binary.LittleEndian.Uint64(body[8:])
	size := int64(binary.LittleEndian.Uint64(body[16:]))
	offset := int64(binary.LittleEndian.Uint64(body[24:]))
	stateLen := int(binary.LittleEndian.Uint16(body[headSize-2:]))
	if sequence <= p.sequence || stateLen > len(body)-headSize {
		return
	}
	// Even a slot that is of no use raises the sequence, so that whatever is written next is the newest.
	p.sequence = sequence
	if size != p.size || offset < 0 || offset > length || (size >= 0 && offset > size) {
		return
	}
	h, _ := newHash(p.algorithm)
	if h.(encoding.BinaryUnmarshaler).UnmarshalBinary(body[headSize:headSize+stateLen]) != nil {
		return
	}
	p.hash, p.offset = h, offset
	copy(p.boot[:], body[32:])
}

func (p *partial) write(b []byte) (int, error) {
	written := 0
	for len(b) > 0 {
		n := min(int64(len(b)), checkpointEvery-(p.offset-p.recorded))
		w, err := (&checkedWriter{p.s, p.data}).Write(b[:n])
		p.hash.Write(b[:w])
		p.offset += int64(w)
		written += w
		b = b[w:]
		if err != nil {
			return written, fmt.Errorf("cannot write partial blob: %w", noSpace(err))
		}
		if p.offset-p.recorded >= checkpointEvery {
			if err := p.checkpoint(); err != nil {
				return written, err
			}
			if err := p.s.room(0); err != nil {
				return written, err
			}
		}
	}
	return written, nil
}

// checkpoint syncs the data and then writes the record of it.
func (p *partial) checkpoint() error {
	failpoint.Here("blob/partial-written")
	err := p.s.check("sync")
	if err == nil {
		err = fdatasync(p.data)
	}
	if err != nil {
		return fmt.Errorf("cannot sync partial blob: %w", noSpace(err))
	}
	failpoint.Here("blob/partial-synced")
	p.sequence++
	slot, err := p.encode()
	if err != nil {
		return err
	}
	if err = p.s.check("record"); err == nil {
		_, err = p.record.WriteAt(slot, int64(p.sequence%2)*slotSize)
	}
	if err != nil {
		return fmt.Errorf("cannot write record of partial blob: %w", noSpace(err))
	}
	failpoint.Here("blob/partial-recorded")
	p.recorded = p.offset
	if p.offset-p.synced >= recordSyncEvery {
		if err := fdatasync(p.record); err != nil {
			return fmt.Errorf("cannot sync record of partial blob: %w", noSpace(err))
		}
		p.synced = p.offset
	}
	return nil
}

func fdatasync(f *os.File) error {
	for {
		err := unix.Fdatasync(int(f.Fd()))
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// release closes the files and with them the lock.
func (p *partial) release() {
	if p.record != nil {
		p.record.Close()
	}
	p.data.Close()
}

// remove deletes the partial and its record; those that are gone are no error.
func (p *partial) remove() error {
	// The data goes first: a record without data is worth nothing, data without a record is swept as stale.
	for _, path := range []string{p.path, p.path + recordSuffix} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot remove partial blob: %w", err)
		}
	}
	failpoint.Here("blob/partial-removed")
	return nil
}
