"""How good captions are: a captioner or a caption table against what people said, as a score card and a page.

    from captionkit.evaluation.job import evaluate
    from captionkit.evaluation.options import CandidateOptions, EvaluateOptions, JudgedCorpusOptions, ResultOptions

    evaluate(EvaluateOptions(
        JudgedCorpusOptions(("flickr8k/Flickr8k.token.txt",), images=("flickr8k/Images",)),
        ResultOptions("judged"),
        CandidateOptions(model="s3://models/show-tell"),
    ))

Nothing is imported here, so that `--help` does without torch.
"""
