package main

import (
	"bytes"
	"encoding/binary"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"runtime"
	"strconv"
)

// The bounds of one photo. What a photo needs is known from its header, so that a small file that unpacks into a huge
// picture is refused before it is decoded, and the step's memory limit is never what stops it.
const (
	maxBytes  = 16 << 20
	maxSide   = 4096
	maxMemory = 36 << 20 // file and decoded picture together
	// collectFrom is the need from which the garbage of earlier photos has to go first.
	collectFrom = 4 << 20
)

// decode returns a photo and its format, or what is wrong with it as the end of a sentence that begins with the photo.
func decode(photo []byte) (img image.Image, format, problem string) {
	var config func() (image.Config, error)
	var read func() (image.Image, error)
	var need func(image.Config) (int, bool)
	switch {
	case len(photo) > maxBytes:
		return nil, "", "has " + strconv.Itoa(len(photo)) + " bytes, at most " + strconv.Itoa(maxBytes) + " are allowed"
	case bytes.HasPrefix(photo, []byte("\x89PNG\r\n\x1a\n")):
		format, need = "png", func(c image.Config) (int, bool) { return pngNeed(photo, c), true }
		config = func() (image.Config, error) { return png.DecodeConfig(bytes.NewReader(photo)) }
		read = func() (image.Image, error) { return png.Decode(bytes.NewReader(photo)) }
	case bytes.HasPrefix(photo, []byte("\xff\xd8")):
		format, need = "jpeg", func(image.Config) (int, bool) { return jpegNeed(photo) }
		config = func() (image.Config, error) { return jpeg.DecodeConfig(bytes.NewReader(photo)) }
		read = func() (image.Image, error) { return jpeg.Decode(bytes.NewReader(photo)) }
	default:
		return nil, "", "is neither PNG nor JPEG"
	}
	c, err := config()
	if err != nil {
		return nil, "", "cannot be read: " + err.Error()
	}
	size := strconv.Itoa(c.Width) + "x" + strconv.Itoa(c.Height)
	if c.Width < 1 || c.Height < 1 || c.Width > maxSide || c.Height > maxSide {
		return nil, "", "is " + size + " pixels, at most " + strconv.Itoa(maxSide) + " each way are allowed"
	}
	memory, ok := need(c)
	if !ok {
		return nil, "", "cannot be read: it has no frame header"
	}
	if memory += len(photo); memory > maxMemory {
		return nil, "", "is " + size + " pixels and takes " + strconv.Itoa(memory>>20) + " MiB to decode, at most " + strconv.Itoa(maxMemory>>20) + " are allowed"
	}
	if memory > collectFrom {
		runtime.GC()
	}
	img, err = read()
	if err != nil {
		return nil, "", "cannot be read: " + err.Error()
	}
	return img, format, ""
}

// interlaceAt is where a PNG's header says so.
const interlaceAt = 28

// pngNeed returns the bytes that image/png takes for a picture.
func pngNeed(photo []byte, c image.Config) int {
	each := 4
	switch c.ColorModel {
	case color.GrayModel:
		each = 1
	case color.Gray16Model:
		each = 2
	case color.RGBA64Model, color.NRGBA64Model:
		each = 8
	}
	if _, paletted := c.ColorModel.(color.Palette); paletted {
		each = 1
	}
	need := c.Width * c.Height * each
	// The last byte of the first chunk says whether the picture comes in passes, each of which is decoded by itself.
	if len(photo) > interlaceAt && photo[interlaceAt] != 0 {
		need *= 2
	}
	return need
}

// jpegNeed walks a JPEG's markers to the frame header and returns the bytes that image/jpeg takes for the picture: one
// for each sample, and where the scans refine each other (progressive) four more for its coefficient.
func jpegNeed(photo []byte) (int, bool) {
	for at := 2; at+4 <= len(photo); {
		if photo[at] != 0xff {
			return 0, false
		}
		marker := photo[at+1]
		if marker == 0xff { // filling
			at++
			continue
		}
		length := int(binary.BigEndian.Uint16(photo[at+2:]))
		frame := photo[at+4:]
		if marker < 0xc0 || marker > 0xc2 {
			at += 2 + length
			continue
		}
		if len(frame) < 6 || len(frame) < 6+3*int(frame[5]) {
			return 0, false
		}
		pixels := int(binary.BigEndian.Uint16(frame[1:])) * int(binary.BigEndian.Uint16(frame[3:]))
		components, most, sum := int(frame[5]), 1, 0
		for i := range components {
			samples := int(frame[7+3*i]>>4) * int(frame[7+3*i]&15)
			most, sum = max(most, samples), sum+samples
		}
		each := 1
		if marker == 0xc2 {
			each = 5
		}
		need := pixels * sum / most * each
		if components == 4 {
			need += 4 * pixels
		}
		return need, true
	}
	return 0, false
}
