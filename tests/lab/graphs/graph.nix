# Small derivations that need nothing but /bin/sh and coreutils of the machine they run on.
# `seed` goes into each of them, so that a run with another seed finds nothing built already.
{ seed }:
let
  make =
    name: script: attributes:
    derivation (
      {
        inherit name seed;
        system = builtins.currentSystem;
        builder = "/bin/sh";
        args = [
          "-euc"
          script
        ];
        PATH = "/usr/bin:/bin";
      }
      // attributes
    );
  fixed =
    name: content: attributes:
    make name ''printf %s "$content" > $out'' (
      {
        inherit content;
        outputHashAlgo = "sha256";
        outputHashMode = "flat";
        outputHash = builtins.hashString "sha256" content;
      }
      // attributes
    );
in
rec {
  # A directory tree as input: an executable, a symlink, a directory.
  from-source = make "from-source" ''
    echo "reading the source"
    mkdir $out
    cp -R $source $out/copy
    $source/alias $seed > $out/greeting
  '' { source = ./source; };

  # One output of each shape, referring to each other and to an input.
  shapes =
    make "shapes"
      ''
        mkdir $out $out/sub $empty
        echo "out is at $out" > $out/self
        ln -s $dev $out/sub/dev
        ln -s $input/greeting $out/greeting
        printf '#!/bin/sh\necho "a program"\n' > $program
        chmod +x $program
        ln -s $program $dev
        echo "shapes are done"
      ''
      {
        input = from-source;
        outputs = [
          "out"
          "dev"
          "program"
          "empty"
        ];
      };

  # The same files within one output and in both.
  duplicates = make "duplicates" ''
    mkdir $out $other
    for i in 1 2; do echo same > $out/$i; echo same > $other/$i; ln -s target $other/link$i; done
    cp $out/1 $out/executable; chmod +x $out/executable
    cp $out/executable $other/executable
  '' {
    outputs = [
      "out"
      "other"
    ];
  };

  download = fixed "download-${seed}" "fetched once\n" { };

  # Its path depends on the content, whichever machine makes it.
  download-tree = make "download-tree-${seed}" ''mkdir $out; echo deep > $out/file'' {
    outputHashAlgo = "sha256";
    outputHashMode = "recursive";
    outputHash = "sha256:0y92c28njjzgdakcqzpmbmvm6aw2pwmxakg693ajmli7g8hz429b";
  };

  # Needs all of the above, so that inputs come from the client's store and from earlier builds.
  top =
    make "top"
      ''
        echo "starting on top"
        echo "a line on standard error" >&2
        mkdir $out
        cat $copy/greeting > $out/report
        $program >> $out/report
        cat $download $tree/file $words >> $out/report
        ln -s $shapes $out/shapes
        head -c 300000 /dev/zero > $out/zeros
        echo "top is done"
      ''
      {
        copy = from-source;
        shapes = shapes.out;
        program = shapes.program;
        inherit download;
        tree = download-tree;
        words = ./source/data/words;
      };

  failing = make "failing" ''
    echo "about to fail"
    echo "no such luck" >&2
    exit 3
  '' { };

  mute = make "mute" "exit 3" { };

  # Never started, because its input fails.
  after-failing = make "after-failing" "touch $out" { input = failing; };

  # An output that the derivation promises and does not make.
  forgetful = make "forgetful" "echo nothing to see" { };

  featured = make "featured" ''echo "a big machine"; uname -n > $out'' {
    requiredSystemFeatures = [ "big-parallel" ];
  };

  impossible = make "impossible" "touch $out" { requiredSystemFeatures = [ "unobtainium" ]; };
}
