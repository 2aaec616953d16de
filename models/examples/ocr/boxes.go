package ocr

import (
	"errors"
	"math"
	"slices"
)

// Point is a place in a picture, in pixels.
type Point struct{ X, Y float64 }

// Box is a rectangle around a line of text, with the corners top left, top right, bottom right, bottom left as the text
// stands, and how sure the detector is of it.
type Box struct {
	Corners [4]Point
	Score   float64
}

// How the detector's map is read. The numbers are those by which this kind of detector is used: a pixel is text above
// threshold, a region counts when it is sure enough and not a speck, and since the model is trained to mark the middle of
// a line only, boxes are grown by their area times unclip over their perimeter.
const (
	threshold = 0.3
	sure      = 0.5
	unclip    = 1.6
	speck     = 4 // pixels of the shorter side
)

// Boxes finds the lines in the detector's map, which has the size that Prepare gave, and returns them as places in the
// picture of width x height, from top to bottom and left to right. At most MaxBoxes are returned, the surest.
func Boxes(probabilities []float32, mapWidth, mapHeight, width, height int) ([]Box, error) {
	if mapWidth <= 0 || mapHeight <= 0 || mapWidth > MaxPixels/mapHeight || len(probabilities) != mapWidth*mapHeight || width <= 0 || height <= 0 {
		return nil, errors.New("the map's probabilities do not fit its size")
	}
	var boxes []Box
	seen := make([]bool, len(probabilities))
	var region []int32
	for start := range probabilities {
		if seen[start] || probabilities[start] <= threshold {
			continue
		}
		region = flood(probabilities, seen, mapWidth, mapHeight, start, region[:0])
		if b, ok := around(region, probabilities, mapWidth); ok {
			boxes = append(boxes, b)
		}
	}
	if len(boxes) > MaxBoxes {
		slices.SortStableFunc(boxes, func(a, b Box) int { return order(b.Score, a.Score) })
		boxes = boxes[:MaxBoxes]
	}
	sx, sy := float64(width)/float64(mapWidth), float64(height)/float64(mapHeight)
	for i := range boxes {
		for j := range boxes[i].Corners {
			boxes[i].Corners[j].X *= sx
			boxes[i].Corners[j].Y *= sy
		}
	}
	return reading(boxes), nil
}

func order(a, b float64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// flood collects the text pixels that hang together with start, corners included, and marks them as seen.
func flood(p []float32, seen []bool, width, height, start int, region []int32) []int32 {
	seen[start] = true
	region = append(region, int32(start))
	for next := 0; next < len(region); next++ {
		x, y := int(region[next])%width, int(region[next])/width
		for ny := max(y-1, 0); ny <= min(y+1, height-1); ny++ {
			for nx := max(x-1, 0); nx <= min(x+1, width-1); nx++ {
				if i := ny*width + nx; !seen[i] && p[i] > threshold {
					seen[i] = true
					region = append(region, int32(i))
				}
			}
		}
	}
	return region
}

// around lays the smallest rectangle, turned as it may be, around a region, and grows it.
func around(region []int32, p []float32, width int) (Box, bool) {
	var sum float64
	ends := map[int][2]int{} // of each row, first and last pixel: the hull needs no others
	for _, i := range region {
		sum += float64(p[i])
		x, y := int(i)%width, int(i)/width
		e, there := ends[y]
		if !there {
			e = [2]int{x, x}
		}
		ends[y] = [2]int{min(e[0], x), max(e[1], x)}
	}
	score := sum / float64(len(region))
	if score < sure {
		return Box{}, false
	}
	points := make([]Point, 0, 4*len(ends))
	for y, e := range ends { // pixels are squares: their corners count
		for _, x := range []float64{float64(e[0]), float64(e[1] + 1)} {
			points = append(points, Point{x, float64(y)}, Point{x, float64(y + 1)})
		}
	}
	r := smallest(hull(points))
	if min(r.w, r.h) < speck {
		return Box{}, false
	}
	grow := r.w * r.h * unclip / (2 * (r.w + r.h))
	r.w, r.h = r.w+2*grow, r.h+2*grow
	return Box{r.corners(), score}, true
}

// hull returns the convex hull, by Andrew's monotone chain.
func hull(points []Point) []Point {
	slices.SortFunc(points, func(a, b Point) int {
		if a.X != b.X {
			return order(a.X, b.X)
		}
		return order(a.Y, b.Y)
	})
	chain := func(points []Point) []Point {
		var c []Point
		for _, p := range points {
			for len(c) >= 2 && cross(c[len(c)-2], c[len(c)-1], p) <= 0 {
				c = c[:len(c)-1]
			}
			c = append(c, p)
		}
		return c[:len(c)-1]
	}
	lower := chain(points)
	slices.Reverse(points)
	return append(lower, chain(points)...)
}

func cross(o, a, b Point) float64 { return (a.X-o.X)*(b.Y-o.Y) - (a.Y-o.Y)*(b.X-o.X) }

// rectangle has its middle, the direction of its width, and its sides.
type rectangle struct {
	middle Point
	cos    float64
	sin    float64
	w, h   float64
}

// smallest returns the rectangle of least area around a convex polygon; one of its sides lies on one of the polygon's.
func smallest(polygon []Point) rectangle {
	best, area := rectangle{}, math.Inf(1)
	for i := range polygon {
		a, b := polygon[i], polygon[(i+1)%len(polygon)]
		length := math.Hypot(b.X-a.X, b.Y-a.Y)
		if length == 0 {
			continue
		}
		cos, sin := (b.X-a.X)/length, (b.Y-a.Y)/length
		loU, hiU, loV, hiV := math.Inf(1), math.Inf(-1), math.Inf(1), math.Inf(-1)
		for _, p := range polygon {
			u, v := p.X*cos+p.Y*sin, p.Y*cos-p.X*sin
			loU, hiU, loV, hiV = min(loU, u), max(hiU, u), min(loV, v), max(hiV, v)
		}
		if w, h := hiU-loU, hiV-loV; w*h < area {
			u, v := (loU+hiU)/2, (loV+hiV)/2
			best, area = rectangle{Point{u*cos - v*sin, u*sin + v*cos}, cos, sin, w, h}, w*h
		}
	}
	return best.upright()
}

// upright turns the description, not the rectangle, so that its width runs to the right within 45 degrees.
func (r rectangle) upright() rectangle {
	for range 3 {
		if math.Abs(r.sin) <= math.Abs(r.cos) && r.cos > 0 {
			break
		}
		r.cos, r.sin, r.w, r.h = r.sin, -r.cos, r.h, r.w // a quarter turn
	}
	return r
}

func (r rectangle) corners() [4]Point {
	at := func(u, v float64) Point {
		return Point{r.middle.X + u*r.cos - v*r.sin, r.middle.Y + u*r.sin + v*r.cos}
	}
	return [4]Point{at(-r.w/2, -r.h/2), at(r.w/2, -r.h/2), at(r.w/2, r.h/2), at(-r.w/2, r.h/2)}
}

// reading puts boxes into the order in which they are read: those whose middles are within half a line's height of each
// other stand beside each other.
func reading(boxes []Box) []Box {
	middle := func(b Box) float64 { return (b.Corners[0].Y + b.Corners[2].Y) / 2 }
	slices.SortStableFunc(boxes, func(a, b Box) int { return order(middle(a), middle(b)) })
	for i := 0; i < len(boxes); {
		height := math.Hypot(boxes[i].Corners[3].X-boxes[i].Corners[0].X, boxes[i].Corners[3].Y-boxes[i].Corners[0].Y)
		j := i + 1
		for j < len(boxes) && middle(boxes[j])-middle(boxes[i]) < height/3 {
			j++
		}
		slices.SortStableFunc(boxes[i:j], func(a, b Box) int { return order(a.Corners[0].X, b.Corners[0].X) })
		i = j
	}
	return boxes
}
