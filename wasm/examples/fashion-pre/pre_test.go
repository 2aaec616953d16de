package main

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/dhowfleet/dhow/models/tensor"
)

// plainLuma is the definition, pixel by pixel.
func plainLuma(img image.Image) (luma []float64, w, h int) {
	b := img.Bounds()
	for y := b.Min.Y; y < b.Max.Y; y++ {
		for x := b.Min.X; x < b.Max.X; x++ {
			r, g, bl, _ := img.At(x, y).RGBA()
			luma = append(luma, (0.299*float64(r)+0.587*float64(g)+0.114*float64(bl))/65535)
		}
	}
	return luma, b.Dx(), b.Dy()
}

// plainFit is the definition without thought for time or memory.
func plainFit(img image.Image) []float64 {
	luma, w, h := plainLuma(img)
	ring := func(v []float64, w, h int) float64 {
		sum, n := 0.0, 0.0
		for y := range h {
			for x := range w {
				if x == 0 || y == 0 || x == w-1 || y == h-1 {
					sum, n = sum+v[y*w+x], n+1
				}
			}
		}
		return sum / n
	}
	s := max(w, h)
	square := make([]float64, s*s)
	for i := range square {
		square[i] = ring(luma, w, h)
	}
	for y := range h {
		for x := range w {
			square[(y+(s-h)/2)*s+x+(s-w)/2] = luma[y*w+x]
		}
	}
	out := make([]float64, side*side)
	scale := float64(s) / side
	for y := range side {
		for x := range side {
			v := 0.0
			if s >= side {
				for sy := int(float64(y) * scale); sy < s && float64(sy) < float64(y+1)*scale; sy++ {
					fy := min(float64(sy+1), float64(y+1)*scale) - max(float64(sy), float64(y)*scale)
					for sx := int(float64(x) * scale); sx < s && float64(sx) < float64(x+1)*scale; sx++ {
						fx := min(float64(sx+1), float64(x+1)*scale) - max(float64(sx), float64(x)*scale)
						v += square[sy*s+sx] * fx * fy
					}
				}
				v /= scale * scale
			} else {
				py := min(max((float64(y)+.5)*scale-.5, 0), float64(s-1))
				px := min(max((float64(x)+.5)*scale-.5, 0), float64(s-1))
				for sy := range s {
					for sx := range s {
						v += square[sy*s+sx] * max(0, 1-math.Abs(py-float64(sy))) * max(0, 1-math.Abs(px-float64(sx)))
					}
				}
			}
			out[y*side+x] = v
		}
	}
	if ring(out, side, side) > 0.5 {
		for i := range out {
			out[i] = 1 - out[i]
		}
	}
	return out
}

// picture draws pictures of every kind that the decoders return, some of them not at the origin.
func picture(t *rapid.T) image.Image {
	w, h := rapid.IntRange(1, 70).Draw(t, "width"), rapid.IntRange(1, 70).Draw(t, "height")
	r := image.Rect(0, 0, w, h)
	seed := rapid.Uint32().Draw(t, "seed")
	bright := rapid.Uint8().Draw(t, "bright")
	fill := func(pix []byte) {
		for i := range pix {
			seed = seed*1664525 + 1013904223
			pix[i] = byte(seed>>24)/2 + bright/2
		}
	}
	switch rapid.IntRange(0, 8).Draw(t, "kind") {
	case 0:
		m := image.NewGray(r)
		fill(m.Pix)
		return m
	case 1:
		r = r.Add(image.Pt(rapid.IntRange(0, 5).Draw(t, "x"), rapid.IntRange(0, 5).Draw(t, "y")))
		m := image.NewYCbCr(r, rapid.SampledFrom([]image.YCbCrSubsampleRatio{image.YCbCrSubsampleRatio444, image.YCbCrSubsampleRatio420, image.YCbCrSubsampleRatio422, image.YCbCrSubsampleRatio440, image.YCbCrSubsampleRatio411, image.YCbCrSubsampleRatio410}).Draw(t, "ratio"))
		fill(m.Y)
		fill(m.Cb)
		fill(m.Cr)
		return m
	case 2:
		m := image.NewRGBA(r)
		fill(m.Pix)
		return m
	case 3:
		m := image.NewNRGBA(r)
		fill(m.Pix)
		return m
	case 4:
		m := image.NewPaletted(r, color.Palette{color.Black, color.White, color.NRGBA{200, 100, 50, 128}})
		fill(m.Pix)
		for i := range m.Pix {
			m.Pix[i] %= 3
		}
		return m
	case 5:
		m := image.NewGray16(r)
		fill(m.Pix)
		return m
	case 6:
		m := image.NewNRGBA64(r)
		fill(m.Pix)
		return m
	case 7:
		m := image.NewCMYK(r)
		fill(m.Pix)
		return m
	}
	big := image.NewNRGBA(image.Rect(-5, 3, w, h+10))
	fill(big.Pix)
	return big.SubImage(image.Rect(-2, 5, w, h+5))
}

func TestFitIsTheDefinition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		img := picture(t)
		got, want := fit(img), plainFit(img)
		if ring := border(want, side, side); math.Abs(ring-0.5) < 1e-6 {
			t.Skip("so near the threshold that rounding decides")
		}
		for i := range want {
			if math.Abs(got[i]-want[i]) > 1e-9 {
				t.Fatalf("%T %v: pixel %d is %v, want %v", img, img.Bounds(), i, got[i], want[i])
			}
		}
	})
}

func TestA28x28PhotoStaysAsItIs(t *testing.T) {
	m := image.NewGray(image.Rect(0, 0, side, side))
	for i := range m.Pix {
		m.Pix[i] = byte(i % 100)
	}
	for i, v := range fit(m) {
		if v != float64(m.Pix[i])/255 {
			t.Fatalf("pixel %d is %v, was %d", i, v, m.Pix[i])
		}
	}
}

func encodePNG(t testing.TB, m image.Image) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := png.Encode(&b, m); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func encodeJPEG(t testing.TB, m image.Image) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := jpeg.Encode(&b, m, nil); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// header returns a PNG that says to be w x h, with a valid checksum and nothing in it.
func header(w, h uint32, depth, kind, interlace byte) []byte {
	b := []byte("\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR")
	b = binary.BigEndian.AppendUint32(b, w)
	b = binary.BigEndian.AppendUint32(b, h)
	b = append(b, depth, kind, 0, 0, interlace)
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b[12:]))
}

// frame returns a JPEG's beginning up to its first scan: three components, the first subsampled as given.
func frame(marker byte, w, h uint16, sampling byte) []byte {
	b := []byte{0xff, 0xd8, 0xff, 0xe0, 0, 4, 1, 2, 0xff, marker, 0, 17, 8}
	b = binary.BigEndian.AppendUint16(b, h)
	b = binary.BigEndian.AppendUint16(b, w)
	return append(b, 3, 1, sampling, 0, 2, 0x11, 0, 3, 0x11, 0, 0xff, 0xda, 0, 2)
}

// TestPhotosThatAreNone: each is the request's fault, said in a sentence, before anything large is decoded.
func TestPhotosThatAreNone(t *testing.T) {
	gray := image.NewGray(image.Rect(0, 0, 40, 30))
	for what, c := range map[string]struct {
		photo []byte
		text  string
	}{
		"nothing":                    {nil, "is neither PNG nor JPEG"},
		"text":                       {[]byte("hello"), "is neither PNG nor JPEG"},
		"a GIF":                      {[]byte("GIF89a\x01\x00\x01\x00"), "is neither PNG nor JPEG"},
		"many bytes":                 {append([]byte("\xff\xd8"), make([]byte, maxBytes)...), "at most 16777216"},
		"a cut-off PNG":              {encodePNG(t, gray)[:60], "cannot be read"},
		"a cut-off JPEG":             {encodeJPEG(t, gray)[:300], "cannot be read"},
		"a JPEG of two bytes":        {[]byte("\xff\xd8"), "cannot be read"},
		"a PNG bomb":                 {header(50000, 50000, 8, 0, 0), "is 50000x50000 pixels"},
		"a PNG of no height":         {header(10, 0, 8, 0, 0), "cannot be read"},
		"a PNG of deep colours":      {header(4096, 4096, 16, 6, 0), "takes 128 MiB to decode"},
		"a PNG in passes":            {header(2600, 2600, 8, 6, 1), "takes 51 MiB to decode"},
		"a JPEG bomb":                {frame(0xc0, 65000, 65000, 0x11), "is 65000x65000 pixels"},
		"a JPEG without subsampling": {frame(0xc0, 4096, 4096, 0x11), "takes 48 MiB to decode"},
		"a progressive JPEG":         {frame(0xc2, 3000, 2500, 0x22), "takes 53 MiB to decode"},
	} {
		t.Run(what, func(t *testing.T) {
			img, _, problem := decode(c.photo)
			if img != nil || !strings.Contains(problem, c.text) {
				t.Fatalf("%q, want %q", problem, c.text)
			}
		})
	}
	_, err := process([]tensor.Tensor{tensor.FromStrings("photo", string(encodePNG(t, gray)), "hello")})
	if err == nil || err.Error() != "photo 1 is neither PNG nor JPEG" {
		t.Errorf("%v", err)
	}
}

func TestRequestsThatAreNone(t *testing.T) {
	for what, in := range map[string][]tensor.Tensor{
		"nothing":      nil,
		"another name": {tensor.FromStrings("picture", "x")},
		"numbers":      {tensor.FromFloat32("photo", []int64{1}, []float32{1})},
		"a matrix":     {{Name: "photo", Datatype: tensor.Bytes, Shape: []int64{1, 1}, Data: []byte{0, 0, 0, 0}}},
		"no photos":    {tensor.FromStrings("photo")},
		"many photos":  {tensor.FromStrings("photo", make([]string, maxPhotos+1)...)},
	} {
		if _, err := process(in); err == nil {
			t.Errorf("%s was accepted", what)
		}
	}
}

func TestABatch(t *testing.T) {
	dark, bright := image.NewGray(image.Rect(0, 0, 50, 60)), image.NewGray(image.Rect(0, 0, 20, 10))
	for i := range bright.Pix {
		bright.Pix[i] = 255
	}
	dark.SetGray(25, 30, color.Gray{255})
	out, err := process([]tensor.Tensor{tensor.FromStrings("photo", string(encodeJPEG(t, dark)), string(encodePNG(t, bright)))})
	if err != nil || len(out) != 1 {
		t.Fatal(out, err)
	}
	if err := out[0].Validate(); err != nil || len(out[0].Shape) != 4 || out[0].Shape[0] != 2 {
		t.Fatalf("%v of shape %v", err, out[0].Shape)
	}
	for i, v := range out[0].Float32s() {
		if second := i >= side*side; second && v != 0 {
			t.Fatalf("the bright photo was not inverted: %v", v)
		} else if v < 0 || v > 1 {
			t.Fatalf("value %v is not within 0 and 1", v)
		}
	}
}

// TestTheNeedIsNotUnderestimated compares with what the decoders return.
func TestTheNeedIsNotUnderestimated(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		img := picture(t)
		var photo bytes.Buffer
		jpg := rapid.Bool().Draw(t, "jpeg")
		var err error
		if jpg {
			err = jpeg.Encode(&photo, img, nil)
		} else {
			err = png.Encode(&photo, img)
		}
		if err != nil {
			t.Fatal(err)
		}
		got, format, problem := decode(photo.Bytes())
		if problem != "" || (format == "jpeg") != jpg {
			t.Fatal(format, problem)
		}
		bytesOf := 0
		switch m := got.(type) {
		case *image.Gray:
			bytesOf = m.Rect.Dx() * m.Rect.Dy()
		case *image.YCbCr:
			bytesOf = m.Rect.Dx()*m.Rect.Dy() + 2*m.Rect.Dx()*m.Rect.Dy()/4 // 4:2:0, without filling up to whole blocks
		case *image.RGBA:
			bytesOf = len(m.Pix)
		case *image.NRGBA:
			bytesOf = len(m.Pix)
		case *image.Paletted:
			bytesOf = len(m.Pix)
		case *image.Gray16:
			bytesOf = len(m.Pix)
		case *image.NRGBA64:
			bytesOf = len(m.Pix)
		case *image.RGBA64:
			bytesOf = len(m.Pix)
		default:
			t.Fatalf("a %T", got)
		}
		need, ok := 0, true
		if jpg {
			need, ok = jpegNeed(photo.Bytes())
		} else {
			c, err := png.DecodeConfig(bytes.NewReader(photo.Bytes()))
			if err != nil {
				t.Fatal(err)
			}
			need = pngNeed(photo.Bytes(), c)
		}
		if !ok || need < bytesOf {
			t.Fatalf("%T %v takes %d bytes, expected were %d", got, got.Bounds(), bytesOf, need)
		}
	})
}

func FuzzProcess(f *testing.F) {
	m := image.NewNRGBA(image.Rect(0, 0, 9, 4))
	f.Add(encodePNG(f, m))
	f.Add(encodeJPEG(f, m))
	f.Add(frame(0xc2, 9, 9, 0x22))
	f.Fuzz(func(t *testing.T, photo []byte) {
		if len(photo) > 1<<16 {
			return
		}
		out, err := process([]tensor.Tensor{tensor.FromStrings("photo", string(photo))})
		if err != nil {
			return
		}
		for _, v := range out[0].Float32s() {
			if !(v >= -1e-6 && v <= 1+1e-6) {
				t.Fatalf("value %v", v)
			}
		}
	})
}
