package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
	"github.com/dhowfleet/dhow/test/failpoint"
)

const maxVersions = 2000

// RecordVersion stores that a version of a model was pushed; a model that is not declared yet comes to be by it. The
// same version with the same digest changes nothing, with another digest it is ErrConflict: a version names one
// content for ever.
func (s *Store) RecordVersion(ctx context.Context, model, version, digest string, size uint64) error {
	return s.write(ctx, func(tx *sql.Tx) error {
		now := timestamppb.New(s.now())
		r, err := getResource(ctx, tx, Key{KindModel, model})
		if errors.Is(err, ErrNotFound) {
			r, err = &fleetv1.Resource{Kind: KindModel, Metadata: &fleetv1.Metadata{Name: model, Generation: 1, CreatedAt: now},
				Body: &fleetv1.Resource_Model{Model: &fleetv1.Model{Spec: &fleetv1.ModelSpec{}}}}, nil
		}
		if err != nil {
			return err
		}
		next := proto.CloneOf(r)
		status := proto.CloneOf(next.GetModel().GetStatus())
		if status == nil {
			status = &fleetv1.ModelStatus{}
		}
		for _, v := range status.Versions {
			if v.GetVersion() != version {
				continue
			}
			if v.GetManifestDigest() == digest {
				return errUnchanged
			}
			return fmt.Errorf("%w: version %q of model %q is %s already and cannot become %s; push it as a new version", ErrConflict, version, model, v.GetManifestDigest(), digest)
		}
		if len(status.Versions) >= maxVersions {
			return fmt.Errorf("%w: model %q has %d versions, more are not kept; publish under a new model name", ErrConflict, model, maxVersions)
		}
		status.Versions = slices.Insert(status.Versions, 0, &fleetv1.ModelVersion{Version: version, ManifestDigest: digest, SizeBytes: size, PushedAt: now})
		next.GetModel().Status = status
		if next.Metadata.ResourceVersion, err = take(ctx, tx, 1); err != nil {
			return err
		}
		next.Metadata.UpdatedAt = now
		if err := saveResource(ctx, tx, next); err != nil {
			return err
		}
		failpoint.Here("store/model-version")
		return nil
	})
}
