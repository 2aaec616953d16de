// Package models proves that models of other makers are served: each is loaded into the serving path (test/inprocess),
// asked over REST and gRPC, and its answers are held against what is known of them, such as reference predictions,
// accuracy, the words on a page or where a recording holds speech.
//
// testdata holds models that were made for this project; NOTICE says from what. The others are fetched by
// test/models/fetch into .cache/models; where they are not, their tests skip and say so. The package has tests only.
package models
